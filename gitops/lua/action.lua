spec.rolloutRef = {name = obj.metadata.name}
spec.reason = "asked for in Argo CD, whose log says by whom"

local owner = {apiVersion = obj.apiVersion, kind = obj.kind, name = obj.metadata.name, uid = obj.metadata.uid}
local wanted = {apiVersion = obj.apiVersion, kind = "RolloutAction", spec = spec}
wanted.metadata = {
  name = obj.metadata.name .. "-" .. action .. os.date("!-%Y%m%d%H%M%S"),
  namespace = obj.metadata.namespace,
  -- It is shown below the rollout, and goes with it.
  ownerReferences = {owner},
}
return {{operation = "create", resource = wanted}}
