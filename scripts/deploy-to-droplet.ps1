# Rolls a release out to the droplets of the inventory, or back. Calls `dev-tools rollout`.
param(
    [string]$Release = "latest",
    [string]$TargetHost,
    [string]$Plan,
    [switch]$Rollback,
    [switch]$PlanOnly
)
$ErrorActionPreference = "Stop"
if ($Rollback) { $arguments = @("rollout", "rollback") }
elseif ($PlanOnly) { $arguments = @("rollout", "plan", $Release) }
else { $arguments = @("rollout", "start", $Release) }
if ($TargetHost) { $arguments += @("--host", $TargetHost) }
if ($Plan) { $arguments += @("--plan", $Plan) }
& dev-tools @arguments
exit $LASTEXITCODE
