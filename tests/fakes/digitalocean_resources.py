"""What the fake DigitalOcean keeps: agents with their versions and keys, models, registry, droplets, load balancers."""

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

if TYPE_CHECKING:
    from fakes.digitalocean_server import FakeDigitalOcean

Json = dict[str, Any]
Answer = tuple[int, Any]

MODELS = ("llama3.3-70b-instruct", "openai-gpt-oss-120b", "openai-gpt-oss-20b", "qwen3-coder-flash")
PROJECT = "37455431-84bd-4fa2-94cf-e8486f8f8c5e"
VERSIONED = ("name", "instruction", "model_uuid", "mcp_servers", "tags")
REGION: Json = {
    "name": "New York 3",
    "slug": "nyc3",
    "sizes": ["s-1vcpu-1gb"],
    "features": ["backups"],
    "available": True,
}


class Refusal(Exception):
    def __init__(self, status: int, id_: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(id_, message)


def error_body(id_: str, message: str) -> Json:
    return {"id": id_, "message": message, "request_id": new_uuid()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def new_uuid() -> str:
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class ManagedAgent:
    uuid: str
    spec: Json
    region: str
    project_id: str
    created_at: str
    visibility: str = "VISIBILITY_PLAYGROUND"
    looked_at: int = 0
    keys: dict[str, Json] = field(default_factory=dict[str, Json])
    versions: list[Json] = field(default_factory=list[Json])
    applied: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Resources:
    def __init__(self, fake: "FakeDigitalOcean") -> None:
        self.fake = fake
        self.models = {name: new_uuid() for name in MODELS}
        self.agents: dict[str, ManagedAgent] = {}
        self.droplets: dict[int, Json] = {}
        self.snapshots: list[Json] = []
        self.balancer: Json = _balancer()
        self.reserved: dict[str, int | None] = {"203.0.113.7": None}
        self.actions: dict[int, Json] = {}
        self.looks: dict[int, int] = {}
        self.actions_end: str = "completed"
        """What an action comes to, once it was looked at `fake.finishes_after` times."""
        self.tags: list[Json] = [_tag(f"v{n}", n) for n in range(1, 4)]
        self.deleted: list[tuple[str, str]] = []
        """Repository and digest of each manifest whose deletion was asked for."""
        self.credentials: list[Json] = []
        self.status = "STATUS_RUNNING"
        """What a deployed agent's deployment says."""
        self._ids = 1000
        a, k = r"/v2/gen-ai/agents", r"/(?P<uuid>[\w-]+)"
        r = r"/v2/registries/(?P<registry>[\w-]+)"
        repo = r + r"/repositories/(?P<repository>[^/]+)"
        lb = r"/v2/load_balancers/(?P<lb>[\w-]+)"
        d = r"/v2/droplets/(?P<number>\d+)"
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = [
            (method, re.compile(pattern + "$"), act)
            for method, pattern, act in (
                ("GET", a, self._list_agents),
                ("POST", a, self._create_agent),
                ("GET", a + k, self._get_agent),
                ("PUT", a + k, self._update_agent),
                ("DELETE", a + k, self._delete_agent),
                ("PUT", a + k + "/deployment_visibility", self._set_visibility),
                ("GET", a + k + "/versions", self._list_versions),
                ("PUT", a + k + "/versions", self._roll_back),
                ("GET", a + k + "/api_keys", self._list_keys),
                ("POST", a + k + "/api_keys", self._create_key),
                ("DELETE", a + k + r"/api_keys/(?P<key>[\w-]+)", self._delete_key),
                ("GET", a + k + "/usage", self._usage),
                ("GET", "/v2/gen-ai/models", self._list_models),
                ("GET", "/v2/gen-ai/models/catalog", self._catalogue),
                ("GET", repo + "/tags", self._list_tags),
                ("GET", repo + "/digests", self._list_manifests),
                ("DELETE", repo + r"/tags/(?P<tag>[^/]+)", self._delete_tag),
                ("DELETE", repo + r"/digests/(?P<digest>[^/]+)", self._delete_manifest),
                ("GET", r + "/docker-credentials", self._credentials),
                ("POST", r + "/garbage-collection", self._collect),
                ("POST", "/v2/droplets", self._create_droplet),
                ("GET", d, self._get_droplet),
                ("DELETE", d, self._destroy_droplet),
                ("POST", d + "/actions", self._droplet_action),
                ("GET", d + "/snapshots", self._droplet_snapshots),
                ("GET", "/v2/snapshots", self._list_snapshots),
                ("DELETE", r"/v2/snapshots/(?P<number>\d+)", self._delete_snapshot),
                ("GET", lb, self._get_balancer),
                ("PUT", lb, self._update_balancer),
                ("POST", lb + "/droplets", self._add_members),
                ("DELETE", lb + "/droplets", self._remove_members),
                ("POST", r"/v2/reserved_ips/(?P<ip>[\d.]+)/actions", self._move_ip),
                ("GET", r"/v2/reserved_ips/(?P<ip>[\d.]+)", self._get_ip),
                ("GET", r"/v2/actions/(?P<number>\d+)", self._get_action),
                ("GET", "/v2/customers/my/balance", self._balance),
            )
        ]

    def answer(self, request: Request, body: Any) -> Answer:
        path = request.scope["raw_path"].decode()  # a repository's name may hold a slash
        for method, pattern, act in self._routes:
            found = pattern.match(path)
            if found and method == request.method:
                return act(request, body, **found.groupdict())
        raise Refusal(404, "not_found", "The resource you were accessing could not be found.")

    # -- agents --------------------------------------------------------------------------------------------------------

    def find(self, uuid_: str) -> ManagedAgent:
        if uuid_ not in self.agents:
            raise Refusal(404, "not_found", "agent not found")
        return self.agents[uuid_]

    def _list_agents(self, request: Request, _: Any) -> Answer:
        items, meta = _page(request, [self._show(agent) for agent in self.agents.values()])
        return 200, {"agents": items, "meta": meta, "links": {}}

    def _create_agent(self, _: Request, body: Any) -> Answer:
        for needed in ("name", "instruction", "model_uuid", "project_id", "region"):
            if not body.get(needed):
                raise Refusal(400, "bad_request", f"{needed} is required")
        if body["model_uuid"] not in self.models.values():
            raise Refusal(404, "not_found", "model not found")
        agent = ManagedAgent(new_uuid(), {}, body["region"], body["project_id"], now())
        self._apply(agent, body, "create")
        self.agents[agent.uuid] = agent
        return 200, {"agent": self._show(agent)}

    def _get_agent(self, _: Request, __: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        agent.looked_at += 1
        return 200, {"agent": self._show(agent)}

    def _update_agent(self, _: Request, body: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        if body.get("model_uuid") and body["model_uuid"] not in self.models.values():
            raise Refusal(404, "not_found", "model not found")
        self._apply(agent, body, "update")
        return 200, {"agent": self._show(agent)}

    def _delete_agent(self, _: Request, __: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        del self.agents[uuid]
        return 200, {"agent": self._show(agent)}

    def _set_visibility(self, _: Request, body: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        agent.visibility = body["visibility"]
        return 200, {"agent": self._show(agent)}

    def _apply(self, agent: ManagedAgent, body: Json, action: str) -> None:
        spec = {**agent.spec, **{key: body[key] for key in VERSIONED if body.get(key)}}
        if body.get("clear_mcp_servers"):
            spec.pop("mcp_servers", None)
        agent.spec = spec
        # The same words again are a new version all the same, so its hash is of more than them.
        agent.applied = digest_of([spec, len(agent.versions)])
        agent.versions.insert(
            0, {"version_hash": agent.applied, "created_at": now(), "trigger_action": action, "spec": spec}
        )

    def _show(self, agent: ManagedAgent) -> Json:
        is_deployed = agent.looked_at >= self.fake.deploys_after
        status = self.status if is_deployed else "STATUS_WAITING_FOR_DEPLOYMENT"
        deployment: Json = {"uuid": agent.uuid, "status": status, "visibility": agent.visibility, "created_at": now()}
        if is_deployed:
            deployment["url"] = f"{self.fake.url}/managed/{agent.uuid}"
        name = next(name for name, uuid_ in self.models.items() if uuid_ == agent.spec["model_uuid"])
        shown = [{**server, "authorization": "********"} for server in agent.spec.get("mcp_servers", ())]
        return {
            "uuid": agent.uuid,
            "name": agent.spec["name"],
            "instruction": agent.spec["instruction"],
            "model": {"uuid": agent.spec["model_uuid"], "name": name, "inference_name": name},
            "mcp_servers": shown,
            "tags": agent.spec.get("tags", []),
            "region": agent.region,
            "project_id": agent.project_id,
            "deployment": deployment,
            "version_hash": agent.applied,
            "created_at": agent.created_at,
            "updated_at": now(),
        }

    def _list_versions(self, request: Request, _: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        listed = [
            {
                **{key: value for key, value in version.items() if key != "spec"},
                "currently_applied": version["version_hash"] == agent.applied,
                "can_rollback": version["version_hash"] != agent.applied,
            }
            for version in agent.versions
        ]
        items, meta = _page(request, listed)
        return 200, {"agent_versions": items, "meta": meta, "links": {}}

    def _roll_back(self, _: Request, body: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        version = next((v for v in agent.versions if v["version_hash"] == body["version_hash"]), None)
        if version is None:
            raise Refusal(404, "not_found", "version not found")
        agent.spec, agent.applied = version["spec"], version["version_hash"]
        return 200, {"version_hash": agent.applied}

    def _list_keys(self, request: Request, _: Any, uuid: str) -> Answer:
        hidden = [{k: v for k, v in key.items() if k != "secret_key"} for key in self.find(uuid).keys.values()]
        items, meta = _page(request, hidden)
        return 200, {"api_key_infos": items, "meta": meta, "links": {}}

    def _create_key(self, _: Request, body: Any, uuid: str) -> Answer:
        key = {"uuid": new_uuid(), "name": body["name"], "secret_key": secrets.token_urlsafe(24), "created_at": now()}
        key["secret_key"] = re.sub(r"[-_]", "x", key["secret_key"])
        self.find(uuid).keys[key["uuid"]] = key
        return 200, {"api_key_info": key}

    def _delete_key(self, _: Request, __: Any, uuid: str, key: str) -> Answer:
        agent = self.find(uuid)
        if key not in agent.keys:
            raise Refusal(404, "not_found", "api key not found")
        gone = agent.keys.pop(key)
        return 200, {"api_key_info": {"uuid": gone["uuid"], "name": gone["name"], "deleted_at": now()}}

    def _usage(self, request: Request, _: Any, uuid: str) -> Answer:
        agent = self.find(uuid)
        measured = [
            {"usage_type": "USAGE_TYPE_INPUT_TOKENS", "tokens": agent.prompt_tokens},
            {"usage_type": "USAGE_TYPE_OUTPUT_TOKENS", "tokens": agent.completion_tokens},
        ]
        return 200, {
            "usage": {
                "resource_uuid": uuid,
                "measurements": measured,
                "start": request.query_params["start"],
                "stop": request.query_params["stop"],
            }
        }

    # -- models --------------------------------------------------------------------------------------------------------

    def _list_models(self, request: Request, _: Any) -> Answer:
        models = [
            {"uuid": uuid_, "id": name, "name": name.title(), "created_at": now()}
            for name, uuid_ in self.models.items()
        ]
        items, meta = _page(request, models)
        return 200, {"models": items, "meta": meta, "links": {}}

    def _catalogue(self, request: Request, _: Any) -> Answer:
        price = {"input_price_per_million": 0.1, "output_price_per_million": 0.7}
        data = [
            {"id": uuid_, "model_id": name, "name": name.title(), "availability": ["serverless"], "pricing": price}
            for name, uuid_ in self.models.items()
        ]
        items, meta = _page(request, data, "limit")
        return 200, {"data": items, "meta": meta}

    # -- registry ------------------------------------------------------------------------------------------------------

    def _list_tags(self, request: Request, _: Any, **where: str) -> Answer:
        items, meta = _page(request, [{**tag, **_where(where)} for tag in self.tags])
        return 200, {"tags": items, "meta": {"total": meta["total"]}, "links": _links(request, meta)}

    def _list_manifests(self, request: Request, _: Any, **where: str) -> Answer:
        manifests = [
            {
                **_where(where),
                "digest": tag["manifest_digest"],
                "tags": [tag["tag"]],
                "updated_at": tag["updated_at"],
                "size_bytes": 10,
                "compressed_size_bytes": 5,
                "blobs": [],
            }
            for tag in self.tags
        ]
        items, meta = _page(request, manifests)
        return 200, {"manifests": items, "meta": {"total": meta["total"]}, "links": _links(request, meta)}

    def _delete_tag(self, _: Request, __: Any, tag: str, **___: str) -> Answer:
        left = [one for one in self.tags if one["tag"] != tag]
        if len(left) == len(self.tags):
            raise Refusal(404, "not_found", "tag not found")
        self.tags = left
        return 204, None

    def _delete_manifest(self, _: Request, __: Any, repository: str, digest: str, **___: str) -> Answer:
        self.deleted.append((repository, digest))
        left = [one for one in self.tags if one["manifest_digest"] != digest]
        if len(left) == len(self.tags):
            raise Refusal(404, "not_found", "manifest not found")
        self.tags = left
        return 204, None

    def _credentials(self, request: Request, _: Any, registry: str) -> Answer:
        self.credentials.append(dict(request.query_params))
        return 200, {"auths": {"registry.digitalocean.com": {"auth": "dXNlcjpwYXNzd29yZA=="}}}

    def _collect(self, _: Request, __: Any, registry: str) -> Answer:
        return 201, {
            "garbage_collection": {
                "uuid": new_uuid(),
                "registry_name": registry,
                "status": "requested",
                "created_at": now(),
                "updated_at": now(),
                "blobs_deleted": 0,
                "freed_bytes": 0,
            }
        }

    # -- droplets and what stands before them --------------------------------------------------------------------------

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def _create_droplet(self, _: Request, body: Any) -> Answer:
        droplet = _droplet(self._next_id(), body)
        self.droplets[droplet["id"]] = droplet
        return 202, {"droplet": droplet, "links": {"actions": []}}

    def _find_droplet(self, id_: str) -> Json:
        if int(id_) not in self.droplets:
            raise Refusal(404, "not_found", "The resource you requested could not be found.")
        return self.droplets[int(id_)]

    def _get_droplet(self, _: Request, __: Any, number: str) -> Answer:
        droplet = self._find_droplet(number)
        droplet["status"] = "active"
        return 200, {"droplet": droplet}

    def _destroy_droplet(self, _: Request, __: Any, number: str) -> Answer:
        self._find_droplet(number)
        del self.droplets[int(number)]
        return 204, None

    def _action(self, type_: str, resource: int, kind: str) -> Json:
        action: Json = {
            "id": self._next_id(),
            "status": "in-progress",
            "type": type_,
            "started_at": now(),
            "completed_at": None,
            "resource_id": resource,
            "resource_type": kind,
            "region": REGION,
            "region_slug": "nyc3",
        }
        self.actions[action["id"]] = action
        return dict(action)

    def _get_action(self, _: Request, __: Any, number: str) -> Answer:
        action = self.actions.get(int(number))
        if action is None:
            raise Refusal(404, "not_found", "The resource you requested could not be found.")
        looks = self.looks[int(number)] = self.looks.get(int(number), 0) + 1
        if looks >= self.fake.finishes_after and action["status"] == "in-progress":
            action |= {"status": self.actions_end, "completed_at": now()}
        return 200, {"action": dict(action)}

    def _droplet_action(self, _: Request, body: Any, number: str) -> Answer:
        droplet = self._find_droplet(number)
        if body["type"] == "snapshot":
            snapshot = {
                "id": self._next_id(),
                "name": body.get("name", droplet["name"]),
                "created_at": now(),
                "regions": ["nyc3"],
                "min_disk_size": 25,
                "size_gigabytes": 2.34,
                "resource_id": number,
            }
            self.snapshots.append(snapshot)
            droplet["snapshot_ids"].append(snapshot["id"])
        return 201, {"action": self._action(body["type"], droplet["id"], "droplet")}

    def _droplet_snapshots(self, request: Request, _: Any, number: str) -> Answer:
        self._find_droplet(number)
        mine = [
            {**{k: v for k, v in one.items() if k != "resource_id"}, "type": "snapshot"}
            for one in self.snapshots
            if one["resource_id"] == number
        ]
        items, meta = _page(request, mine)
        return 200, {"snapshots": items, "links": _links(request, meta), "meta": {"total": meta["total"]}}

    def _list_snapshots(self, request: Request, _: Any) -> Answer:
        shown: list[Json] = [
            {**one, "id": str(one["id"]), "resource_type": "droplet", "tags": []} for one in self.snapshots
        ]
        items, meta = _page(request, shown)
        return 200, {"snapshots": items, "links": _links(request, meta), "meta": {"total": meta["total"]}}

    def _delete_snapshot(self, _: Request, __: Any, number: str) -> Answer:
        self.snapshots = [one for one in self.snapshots if one["id"] != int(number)]
        return 204, None

    def _get_balancer(self, _: Request, __: Any, lb: str) -> Answer:
        if lb != self.balancer["id"]:
            raise Refusal(404, "not_found", "load balancer not found")
        return 200, {"load_balancer": self.balancer}

    def _update_balancer(self, _: Request, body: Any, lb: str) -> Answer:
        kept = {key: self.balancer[key] for key in ("id", "ip", "status", "created_at", "region")}
        whole: Json = {"tag": "", "droplet_ids": [], **body}
        self.balancer = {**whole, **kept}
        return 200, {"load_balancer": self.balancer}

    def _add_members(self, _: Request, body: Any, lb: str) -> Answer:
        self.balancer["droplet_ids"] = sorted({*self.balancer["droplet_ids"], *body["droplet_ids"]})
        return 204, None

    def _remove_members(self, _: Request, body: Any, lb: str) -> Answer:
        self.balancer["droplet_ids"] = sorted({*self.balancer["droplet_ids"]} - {*body["droplet_ids"]})
        return 204, None

    def _get_ip(self, _: Request, __: Any, ip: str) -> Answer:
        if ip not in self.reserved:
            raise Refusal(404, "not_found", "reserved ip not found")
        droplet = self.reserved[ip]
        shown = None if droplet is None else self._find_droplet(str(droplet))
        return 200, {"reserved_ip": {"ip": ip, "droplet": shown, "region": REGION, "locked": False}}

    def _move_ip(self, _: Request, body: Any, ip: str) -> Answer:
        if ip not in self.reserved:
            raise Refusal(404, "not_found", "reserved ip not found")
        self.reserved[ip] = body.get("droplet_id")
        return 201, {"action": self._action(f"{body['type']}_ip", 1, "reserved_ip")}

    def _balance(self, _: Request, __: Any) -> Answer:
        return 200, {
            "month_to_date_balance": "23.44",
            "account_balance": "12.23",
            "month_to_date_usage": "11.21",
            "generated_at": now(),
        }


def _page(request: Request, items: Sequence[Any], size: str = "per_page") -> tuple[list[Any], Json]:
    page, per_page = int(request.query_params.get("page", 1)), int(request.query_params.get(size, 20))
    pages = max(1, -(-len(items) // per_page))
    return list(items[(page - 1) * per_page : page * per_page]), {"page": page, "pages": pages, "total": len(items)}


def _links(request: Request, meta: Json) -> Json:
    if meta["page"] >= meta["pages"]:
        return {}
    return {"pages": {"next": f"{request.url.path}?page={meta['page'] + 1}"}}


def _where(where: dict[str, str]) -> Json:
    return {"registry_name": where["registry"], "repository": where["repository"]}


def _tag(name: str, n: int) -> Json:
    return {
        "tag": name,
        "manifest_digest": "sha256:" + digest_of(n),
        "compressed_size_bytes": 5,
        "size_bytes": 10,
        "updated_at": now(),
    }


def _balancer() -> Json:
    rule = {"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 8080}
    return {
        "id": new_uuid(),
        "name": "web",
        "ip": "203.0.113.9",
        "size": "lb-small",
        "algorithm": "round_robin",
        "status": "active",
        "created_at": now(),
        "forwarding_rules": [{**rule, "certificate_id": "", "tls_passthrough": False}],
        "health_check": {"protocol": "http", "port": 8080, "path": "/health"},
        "sticky_sessions": {"type": "none"},
        "region": REGION,
        "tag": "",
        "droplet_ids": [],
        "redirect_http_to_https": False,
    }


def _droplet(id_: int, body: Json) -> Json:
    size = {
        "slug": body["size"],
        "memory": 1024,
        "vcpus": 1,
        "disk": 25,
        "transfer": 1.0,
        "price_monthly": 6.0,
        "price_hourly": 0.009,
        "regions": ["nyc3"],
        "available": True,
        "description": "Basic",
    }
    public = {"ip_address": "203.0.113.20", "netmask": "255.255.255.0", "gateway": "203.0.113.1", "type": "public"}
    return {
        "id": id_,
        "name": body["name"],
        "memory": 1024,
        "vcpus": 1,
        "disk": 25,
        "locked": False,
        "status": "new",
        "created_at": now(),
        "features": [],
        "backup_ids": [],
        "next_backup_window": None,
        "snapshot_ids": [],
        "image": {"id": 1, "name": "Debian", "distribution": "Debian", "slug": body["image"], "public": True},
        "volume_ids": [],
        "size": size,
        "size_slug": body["size"],
        "networks": {"v4": [public], "v6": []},
        "region": REGION,
        "tags": body.get("tags", []),
    }
