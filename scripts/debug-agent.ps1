# What the droplets know of a service that is in trouble. Calls `dev-tools debug`.
param(
    [Parameter(Mandatory = $true)][string]$Service,
    [string]$TargetHost,
    [int]$Lines = 100
)
$ErrorActionPreference = "Stop"
$arguments = @("debug", $Service, "--lines", $Lines)
if ($TargetHost) { $arguments += @("--host", $TargetHost) }
& dev-tools @arguments
exit $LASTEXITCODE
