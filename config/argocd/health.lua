-- Argo CD health check of every kind of ecs-retirement.dev, based on its kstatus conditions.
local health = { status = "Progressing", message = "the controller has not reconciled it yet" }
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local is_true = {}
for _, condition in ipairs(status.conditions) do
  is_true[condition.type] = condition.status == "True"
  if condition.type == "Ready" then
    health.message = condition.reason .. ": " .. condition.message
  end
end
if is_true.Ready then
  health.status = "Healthy"
elseif is_true.Stalled then
  health.status = "Degraded"
elseif not is_true.Reconciling then
  health.status = "Suspended"
end
return health
