# Builds every service, signs it and pushes it to DigitalOcean's registry, by the git sha. Calls `dev-tools release`.
param(
    [string]$Registry = $env:DEV_TOOLS_REGISTRY,
    [string]$ComposeFile = "deploy/compose.app.yaml",
    [switch]$SkipCleanup
)
$ErrorActionPreference = "Stop"
if ($Registry) { $env:DEV_TOOLS_REGISTRY = $Registry }
$arguments = @("release", "build", "--compose", $ComposeFile)
if ($SkipCleanup) { $arguments += "--skip-cleanup" }
& dev-tools @arguments
exit $LASTEXITCODE
