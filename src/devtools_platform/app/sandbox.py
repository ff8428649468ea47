"""What isolates commands in this stack, as the settings say."""

from devtools_platform.config import Settings
from devtools_platform.config.environment import docker_environment
from devtools_platform.kit.sandbox import Bubblewrap, Docker, Sandbox


def sandbox_of(settings: Settings) -> Sandbox:
    if settings.sandbox == "docker":
        return Docker(settings.sandbox_image, settings.sandbox_cpus, tuple(docker_environment().items()))
    return Bubblewrap(settings.sandbox_program)
