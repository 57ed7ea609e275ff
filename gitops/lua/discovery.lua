-- What may be asked for now. The operator has the last word: it refuses what makes no sense, and says why.
local status = obj.status or {}
local phase = status.phase
local seen = status.observedGeneration ~= nil and status.observedGeneration == obj.metadata.generation

local function condition(kind)
  for _, found in ipairs(status.conditions or {}) do
    if found.type == kind then
      return found
    end
  end
  return {}
end

local reason = condition("Reconciling").reason
local rolled_back = condition("RolledBack").status == "True"
local completed = condition("Completed").status == "True"
local has_stage = status.stage ~= nil

-- Argo CD asks as its service account, which counts only where the approval says so.
local following = obj.spec.stages[(has_stage and status.stage.index or 0) + 1]
local approval = following ~= nil and following.approval or {}
local approvable = seen and phase == "AwaitingApproval" and approval.allowServiceAccounts == true

local under_way = phase == "Baking" or phase == "Gating" or phase == "Held"
local promotable = seen and under_way and has_stage and reason ~= "EvidenceAgainst" and reason ~= "HoldAction"
-- A change by hand pauses too, and ends with Resume; who suspends does so in Git.
local resumable = phase == "Paused" and reason ~= "Suspended" or has_stage and reason == "HoldAction"

local function action(name, icon, enabled)
  return {displayName = name, iconClass = "fa fa-fw " .. icon, disabled = not enabled}
end

return {
  ["approve"] = action("Approve the next stage", "fa-check", approvable),
  ["promote"] = action("End the bake", "fa-step-forward", promotable),
  ["pause"] = action("Pause", "fa-pause", not (phase == "Paused" or completed)),
  ["resume"] = action("Resume", "fa-play", resumable),
  ["retry"] = action("Retry", "fa-redo", rolled_back),
  ["rollback"] = action("Roll back: flags off", "fa-undo", true),
}
