-- The same for every kind: what kstatus says of the conditions, so that no two tools disagree, but for one word. A
-- rollout that is paused is neither healthy nor in progress, because a person has said so.
local status = obj.status or {}

local function condition(kind)
  for _, found in ipairs(status.conditions or {}) do
    if found.type == kind then
      return found
    end
  end
  return {}
end

local function is_true(kind)
  return condition(kind).status == "True"
end

if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "It is being deleted."}
end

local unseen = "The operator has not seen this yet."
if status.observedGeneration == nil or status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = unseen}
end

local message = condition("Ready").message or ""
local health = {status = "Progressing", message = message ~= "" and message or unseen}
if is_true("Reconciling") then
  health.status = "Progressing"
elseif is_true("Stalled") then
  health.status = "Degraded"
elseif is_true("Ready") then
  health.status = "Healthy"
end
if status.phase == "Paused" and health.status ~= "Degraded" then
  health.status = "Suspended"
end
return health
