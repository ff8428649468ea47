"""Every setting, its default and its meaning, read from the environment, a file and flags, in that order of weakness.

Names carry the prefix `DEV_TOOLS_`, but for those that other tools already use (`GRADIENT_MODEL_ACCESS_KEY`,
`DATABASE_URL`). An unknown `DEV_TOOLS_*` name is an error that says which known one is nearest.
"""

import os
from collections.abc import Mapping
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from devtools_platform.core.errors import BadInput

PREFIX = "DEV_TOOLS_"
Queue = Literal["tasks", "agents"]
Service = Literal["gateway", "context", "state", "agents", "console", "worker", "integrations"]
"""What a stack consists of. `dev-tools up` runs all of it in one process, `dev-tools up --only NAME` one part."""


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "dev-tools"


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dev-tools"


def _origin(url: str) -> str:
    """`https://dev-tools.example.org`, perhaps with a port: the console's links start at the root."""
    parts = urlsplit(url.rstrip("/"))
    is_origin = (
        parts.scheme in {"http", "https"} and parts.hostname and not (parts.path or parts.query or parts.fragment)
    )
    if not is_origin or parts.username is not None:
        raise ValueError("expected http(s)://HOST or http(s)://HOST:PORT, and nothing after it")
    return url.rstrip("/")


class Settings(BaseSettings):
    """The settings of one stack. Secrets are `SecretStr` and print as `***` everywhere."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    environment: Literal["production", "staging", "development", "test"] = "development"
    data_dir: Path = Field(default_factory=_default_data_dir)
    """Where the stack keeps its database, index, workspaces and tokens. One stack per folder."""
    workspaces_dir: Path | None = None
    """Where tasks' private clones lie when not in the data directory: services of one stack that run apart share it."""
    cache_dir: Path = Field(default_factory=_default_cache_dir)
    """Downloads that any stack of this user may share: the embedded model."""
    host: str = "127.0.0.1"

    gateway_port: int = Field(default=8000, ge=0, le=65535)
    context_port: int = Field(default=8007, ge=0, le=65535)
    state_port: int = Field(default=8008, ge=0, le=65535)
    console_port: int = Field(default=8080, ge=0, le=65535)
    """0 takes any free port; `dev-tools up` prints what it took."""
    agents_port: int = Field(default=8001, ge=0, le=65535)
    """Where `up --only agents` listens; in one process with the gateway the agents are at the gateway's port."""

    gateway_servers: str = ""
    """Names of the MCP servers to start behind the gateway, parted by commas; see its catalogue."""
    gateway_catalog: Path | None = None
    """A catalogue of your own, over the shipped one."""
    gateway_lock: Path | None = None
    """Where approved tool definitions are pinned: put it under git. By default `mcp.lock` in the data directory."""
    gateway_hosts: str = ""
    """Names, parted by commas, under which the gateway may be reached beside this machine's own."""

    gateway_client_metadata_url: str | None = None
    """Where our OAuth Client ID Metadata Document is published, for servers one signs in at."""

    gateway_oidc_issuer: str | None = None
    """An OpenID provider whose tokens open the gateway for people: its issuer URL, exactly as its tokens say it."""
    gateway_oidc_audience: str | None = None
    """What such a token must be made for: best the gateway's URL as clients know it, `https://tools.example.org/mcp`."""
    gateway_oidc_claim: str = "scope"
    """The claim that says what its holder may do: scopes `tools:SERVER_TOOL` and `context:COLLECTION`, `*` allowed."""
    gateway_oidc_scopes: Mapping[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    """Scopes for values of that claim that are none, such as groups: `{"platform-team": ["tools:git_*"]}`."""
    gateway_oidc_allow_private: bool = False
    """Whether the issuer may be at an address that is not public, or without TLS."""

    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("database_url", "DATABASE_URL", "DEV_TOOLS_DATABASE_URL")
    )
    """A PostgreSQL server to use instead of the embedded one (`postgresql://user:password@host:5432/name`), or on a
    single machine an SQLite file (`sqlite:////absolute/path/file.db`)."""

    embeddings: Literal["local", "endpoint", "none"] = "local"
    """What gives search its vectors: the model of the extra `dense` on this machine, an OpenAI-compatible endpoint,
    or nothing (words only)."""
    qdrant_url: str | None = Field(
        default=None, validation_alias=AliasChoices("qdrant_url", "QDRANT_URL", "QDRANT_CLUSTER_ENDPOINT")
    )
    """A Qdrant server, at least 1.20, to keep the code index in instead of the embedded engine."""
    qdrant_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("qdrant_api_key", "QDRANT_API_KEY", "QDRANT_CLOUD_API_KEY")
    )

    model: str | None = None
    """Model name at the endpoint, or `embedded`."""
    model_base_url: str | None = None
    """Any OpenAI-compatible endpoint, for example `http://127.0.0.1:11434/v1`."""
    model_api_key: SecretStr | None = None
    model_tier: Literal["standard", "small"] | None = None
    """Force how a model is driven; by default endpoints are `standard`, embedded and Ollama models `small`."""
    model_file: Path | None = None
    """A GGUF file to serve with the embedded runtime instead of the pinned default."""
    model_source: str | None = None
    """Where to fetch the embedded model first: a file path or a URL. Its SHA-256 is checked all the same."""
    model_script: Path | None = None
    """A script of model replies (tests and rehearsals). Recorded as provider `scripted`."""
    model_timeout_s: float = Field(default=120.0, gt=0, le=3600)
    gradient_model_access_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("gradient_model_access_key", "GRADIENT_MODEL_ACCESS_KEY"),
    )
    """DigitalOcean serverless inference, used when no `model_base_url` is set."""
    use_ollama: bool = True
    """Use an Ollama that answers on its loopback port when nothing else is configured."""
    ollama_url: str = "http://127.0.0.1:11434"

    sandbox: Literal["bubblewrap", "docker"] = "bubblewrap"
    """What isolates the commands of a repository. `docker` needs an engine on this machine (`DOCKER_HOST`)."""
    sandbox_program: Path | None = None
    """A bubblewrap to use instead of the one that came with us."""
    sandbox_image: str | None = None
    """With `docker`: the image whose system the repository's commands see, instead of this machine's; `dev-tools.toml`
    of a repository may name another. It is never pulled."""
    sandbox_cpus: float | None = Field(default=None, gt=0, le=1024)
    """With `docker`: how many processors one command may keep busy; all of them by default."""
    command_timeout_s: float = Field(default=300.0, gt=0, le=7200)
    """Longest time one sandboxed command (a test run, an analyzer) may take."""
    command_memory_mb: int = Field(default=4096, ge=64)
    min_free_disk_mb: int = Field(default=512, ge=0)
    """A task is refused when less than this is free in the data directory."""
    max_agent_turns: int = Field(default=40, ge=1, le=500)
    max_review_rounds: int = Field(default=2, ge=0, le=10)
    max_candidates: int = Field(default=8, ge=1, le=50)
    """Candidate edits the guided loop may try with a small model."""
    concurrent_tasks: int = Field(default=2, ge=1, le=64)
    """Tasks that may clone, index or run tests at once in one process. Tasks that wait for a person do not count."""
    agent_concurrency: int = Field(default=2, ge=1, le=64)
    """Runs of each agent at once, over all workers."""
    agent_runs_per_minute: int | None = Field(default=None, ge=1)
    """Runs of each agent that may start in a minute, over all workers; unlimited by default."""
    queues: tuple[Queue, ...] = ("tasks", "agents")
    """What this process works on. Tasks need the workspaces of this data directory; agents need only the gateway."""
    gateway_url: str | None = None
    """Where a worker on another host, or a service that runs apart, finds the gateway: `http://10.0.0.5:8000`."""
    context_url: str | None = None
    """Where it finds the context service. So for the next three."""
    state_url: str | None = None
    agents_url: str | None = None
    console_url: str | None = None
    stack_token: SecretStr | None = None
    """What the services of a stack know each other by, instead of `token` in the data directory."""
    stack_secret: SecretStr | None = None
    """What tokens of runs and sessions are signed with, instead of `secret` in the data directory."""
    approval_rules: Path | None = None
    """A YAML file of approval rules to use instead of the shipped ones."""
    keep_workspaces_days: float = Field(default=7.0, ge=0, le=3650)
    """How long an ended task's private clone stays, for a retry or a fork."""
    keep_tasks_days: float = Field(default=90.0, gt=0, le=36500)
    """How long an ended task stays with its events, runs and artifacts. The audit stays for ever."""
    backup_recipient: str | None = None
    """The public key (`age1...`) that backups are encrypted for; `dev-tools backup keygen` makes a pair."""
    # -- the crew's work -----------------------------------------------------------------------------------------
    review_policy: Path | None = None
    """A YAML file that says what a finding of an analyzer means, instead of the one that came with us."""
    dependency_audit: bool = True
    """Ask PyPI's database of vulnerabilities about dependencies a change adds; names and versions are sent."""
    routing: Path | None = None
    """A YAML file of words by which simple requests go to an agent without a model, instead of ours."""
    max_replans: int = Field(default=1, ge=0, le=5)
    """How often the orchestrator may make a new plan for a task whose plan failed."""
    max_agent_runs: int = Field(default=30, ge=2, le=500)
    """Runs of agents one task may use, repairs and new plans included."""

    release_application: str = "dev-tools"
    """The name of the application that releases and rollouts are of."""
    registry: str | None = None
    """Where images and releases are kept: `HOST/TEAM`, of DigitalOcean's or any other OCI registry."""
    registry_user: str | None = None
    registry_password: SecretStr | None = None
    """Best a short-lived one: `doctl registry docker-config --expiry-seconds 1800` makes one."""
    registry_plain_http: bool = False
    """For a registry without TLS that is reached through an SSH connection. Never over a public network."""
    release_key: Path | None = None
    """The private key that signs releases, as cosign or `dev-tools release keygen` makes it."""
    release_key_password: SecretStr | None = None
    release_public_key: Path | None = None
    """The public key that releases are verified with; by default the file beside the private one that ends in .pub."""
    hosts_file: Path = Path("deploy/hosts.yaml")
    """The inventory: which droplets a rollout goes to."""
    keep_releases: int = Field(default=5, ge=1, le=1000)
    """How many releases `release prune` keeps: the newest, and of each host those it ran last, beside the current."""
    keep_releases_days: float = Field(default=30.0, ge=0, le=3650)
    """No release that is younger is pruned, however many there are."""
    prune_releases: bool = False
    """Whether the stack prunes once a day: old releases in the registry, their images on the hosts. `hosts_file` must
    name every host of the application: what another host runs cannot be known."""
    osv_url: str = "https://api.osv.dev"
    """Where `rollout --refuse-severity` looks vulnerabilities up: OSV, or a mirror of it. Package names are sent."""

    embedding_base_url: str | None = None
    """The endpoint of `embeddings=endpoint`, for example `https://inference.do-ai.run/v1`. Repositories' code is sent
    there, secrets left out."""
    embedding_model: str | None = None
    embedding_size: int | None = Field(default=None, ge=8, le=8192)
    """How many numbers a vector of that model has."""
    embedding_api_key: SecretStr | None = None
    context_remotes: str = ""
    """URLs of git repositories on other machines, parted by commas, whose HEAD is kept indexed."""
    context_poll_s: float = Field(default=300.0, ge=10, le=86_400)
    """How often they are asked for news."""

    # -- observability and cost
    prices: Path | None = None
    """A YAML file of your own prices and fixed costs; see `docs/how-to/prometheus.md`. It goes before ours."""
    budget_task_usd: Decimal | None = Field(default=None, gt=0)
    """What one task may spend on model calls, in US dollars; no limit by default. So for the next three."""
    budget_agent_usd: Decimal | None = Field(default=None, gt=0)
    """What each agent may spend in a calendar month (UTC)."""
    budget_environment_usd: Decimal | None = Field(default=None, gt=0)
    """What this environment may spend in a calendar month (UTC)."""
    budget_month_usd: Decimal | None = Field(default=None, gt=0)
    """What everything in this database may spend in a calendar month (UTC)."""
    budget_warn_share: float = Field(default=0.8, gt=0, le=1)
    """From this share of a limit on, the task's timeline and the metrics warn."""
    budget_action: Literal["ask", "stop"] = "ask"
    """What happens where a limit would be passed: the task waits for a person to raise it, or it ends."""
    budget_unpriced: Literal["refuse", "allow"] = "refuse"
    """Whether a call of unknown price is made where any limit is set. It can be held against none."""
    budget_max_output_tokens: int = Field(default=8192, ge=1)
    """Where any limit is set, a model is asked for at most so many tokens a call, and that many are reserved."""
    langfuse_public_key: str | None = Field(
        default=None, validation_alias=AliasChoices("langfuse_public_key", "LANGFUSE_PUBLIC_KEY")
    )
    """With the secret key: every span also goes to Langfuse."""
    langfuse_secret_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("langfuse_secret_key", "LANGFUSE_SECRET_KEY")
    )
    langfuse_base_url: str = Field(
        default="https://cloud.langfuse.com",
        validation_alias=AliasChoices("langfuse_base_url", "LANGFUSE_BASE_URL", "LANGFUSE_HOST"),
    )
    """Where Langfuse is. The older name `LANGFUSE_HOST` is read too."""
    otlp_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    """Any OTLP/HTTP receiver for every span, without `/v1/traces`: Phoenix, a collector."""
    otlp_headers: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("otlp_headers", "OTEL_EXPORTER_OTLP_HEADERS")
    )
    """Headers for it as `name=value,name=value`, values URL-encoded."""
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where `dev-tools worker` offers its metrics; a stack's own are on its services, and a worker has none."""
    trace_content: bool = True
    """Whether spans hold what was said to models and tools. Without it they hold names, times, tokens and cost."""

    environments_file: Path | None = None
    """A YAML file that says which runtime and model carries each agent in each environment, instead of the shipped
    one, by which all run on the stack's own model."""
    agent_definitions: Path | None = None
    """A folder of agent definitions of your own (`NAME.md`), beside the six shipped ones."""
    digitalocean_access_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "digitalocean_access_token", "DIGITALOCEAN_ACCESS_TOKEN", "DEV_TOOLS_DIGITALOCEAN_ACCESS_TOKEN"
        ),
    )
    """A personal access token of DigitalOcean, for `dev-tools agents sync` and its like."""
    digitalocean_url: str = "https://api.digitalocean.com"
    """Where DigitalOcean's API is; another address is for tests."""

    webhook_port: int = Field(default=8009, ge=0, le=65535)
    """Where webhooks of GitHub and Linear come in; listened on only when one of their secrets is set."""
    public_url: Annotated[str, AfterValidator(_origin)] | None = None
    """Where people reach the console from outside: `https://dev-tools.example.org`. It answers to that name, links in
    comments and sign-ins lead there, and with https its cookies go out by https only."""
    console_hosts: str = ""
    """Names, parted by commas, under which the console answers beside this machine's own and the public URL's."""
    console_oidc_issuer: str | None = None
    """An OpenID provider people sign in at: its issuer URL, exactly; `https://github.com` for GitHub. Its redirect URI
    is `/sign-in/callback` under the public URL."""
    console_oidc_client_id: str | None = None
    console_oidc_client_secret: SecretStr | None = None
    """None for a public client, which proves itself by PKCE alone."""
    console_oidc_scopes: str = "openid email profile"
    """What is asked for; add what your provider wants for the claim with the groups."""
    console_oidc_groups_claim: str = "groups"
    """The claim of the ID token that lists groups."""
    console_oidc_allow_private: bool = False
    """Whether the provider may be at an address that is not public, or without TLS."""
    console_roles: Path | None = None
    """A YAML file that says who has which role: `operator: ["group:developers", "email:ann@example.org"]`. Who is on
    no line does not come in. Needed with `console_oidc_issuer`."""
    public_webhook_url: str | None = None
    """Where GitHub and Linear reach `webhook_port` from outside; Linear's sign-in comes back there, too."""
    webhooks_allow_private: bool = False
    """Whether webhooks out (`dev-tools webhooks add`) may go to addresses that are not public, or without TLS."""
    integrations_ask_before: tuple[Literal["plan", "publish"], ...] = ()
    """What tasks that come from GitHub or Linear ask about in their thread, beside what the approval rules say."""
    github_app_id: str | None = None
    """The App's id (or client id). Without an App a token serves, with fewer features: no check runs."""
    github_private_key_file: Path | None = None
    """The App's private key, as GitHub made it (PEM)."""
    github_token: SecretStr | None = None
    """A fine-grained token, where there is no App: contents, issues, pull requests, commit statuses and actions."""
    github_webhook_secret: SecretStr | None = None
    """What GitHub signs its webhooks with. Two, parted by a comma, while one is being replaced."""
    github_repositories: Mapping[str, Path] = Field(default_factory=dict[str, Path])
    """The repositories served, and their clones here: `{"acme/shop": "/srv/shop"}`. No other is listened to."""
    github_mention: str = "@dev-tools"
    github_api_url: str = "https://api.github.com"
    github_git_url: str = "https://github.com/{owner}/{repo}.git"
    linear_webhook_secret: SecretStr | None = None
    """What Linear signs its webhooks with. Two, parted by a comma, while one is being replaced."""
    linear_client_id: str | None = None
    """Of the OAuth application that is the agent; connect it with `dev-tools integrations connect linear`."""
    linear_client_secret: SecretStr | None = None
    linear_api_key: SecretStr | None = None
    """A personal key instead of the OAuth application: comments go out in that person's name."""
    linear_teams: Mapping[str, str] = Field(default_factory=dict[str, str])
    """Where each team's work is done, by its key: `{"ENG": "acme/shop"}`, one of `github_repositories`, or a path."""
    linear_api_url: str = "https://api.linear.app"


def load_settings(overrides: Mapping[str, Any] | None = None, *, check_names: bool = True) -> Settings:
    """The settings of this process; `overrides` (flags) win over the environment.

    A secret can stand in a file that the variable with `_FILE` behind its name leads to, as containers have it.
    Raises `BadInput` naming the variable, what it held and what was expected.
    """
    if check_names and (problems := find_unknown_names()):
        raise BadInput(problems[0], hint="See `dev-tools config show` for every setting.")
    given: dict[str, Any] = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**(_read_secret_files() | given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"Setting {name!r} is {first.get('input')!r}: {first['msg']}.",
            hint="See `dev-tools config show` for every setting and its present value.",
        ) from None


def variables_of(name: str) -> list[str]:
    """The variable that sets a field, then others that are read too."""
    own = PREFIX + name.upper()
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str) and choice.isupper()] or [own]
    return [own]


def is_secret(name: str) -> bool:
    field = Settings.model_fields[name]
    return field.annotation is SecretStr or SecretStr in getattr(field.annotation, "__args__", ())


def find_unknown_names() -> list[str]:
    """Each `DEV_TOOLS_*` variable of the environment that is no setting, in a sentence with the nearest that is."""
    secret_files = {PREFIX + name.upper() + "_FILE" for name in Settings.model_fields if is_secret(name)}
    known = {PREFIX + name.upper() for name in Settings.model_fields} | secret_files
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    near = {name: get_close_matches(name, known, n=1) for name in unknown}
    return [f"{name!r} is not a setting." + (f" Did you mean {n[0]!r}?" if n else "") for name, n in near.items()]


def secret_file_of(name: str) -> str | None:
    """The variable that names the file a secret stands in; None where none is set."""
    return next((f"{v}_FILE" for v in variables_of(name) if os.environ.get(f"{v}_FILE")), None)


def _read_secret_files() -> dict[str, Any]:
    """Raises `BadInput` for a file that cannot be read or is empty, and for a secret that is given twice."""
    found: dict[str, Any] = {}
    for name in filter(is_secret, Settings.model_fields):
        variable = secret_file_of(name)
        if variable is None:
            continue
        if twice := [one for one in variables_of(name) if os.environ.get(one)]:
            raise BadInput(f"{twice[0]} and {variable} are both set.", hint="Keep the file, and leave out the other.")
        found[name] = _read_secret(variable)
    return found


def _read_secret(variable: str) -> str:
    hint = f"Put the secret into a file that this user can read, and its path into {variable}."
    try:
        text = Path(os.environ[variable]).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadInput(f"{variable} is {os.environ[variable]!r}, which cannot be read: {why}.", hint=hint) from None
    if not text:
        raise BadInput(f"{variable} is {os.environ[variable]!r}, which is empty.", hint=hint)
    return text
