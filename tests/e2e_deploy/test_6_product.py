"""Must hold 6: the product itself, with its own image, compose file and health."""

import json
import shutil
from collections.abc import Iterator

import pytest

from e2e_deploy.fleet import Fleet, answers, end, start_service, wait_for
from e2e_deploy.product import Prepared, Product, open_product
from e2e_deploy.shop import Shop

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def product(fleet: Fleet, shop: Shop, prepared: Prepared) -> Iterator[Product]:
    """After the shop, on a droplet that is then free for it."""
    shop.close()
    with open_product(fleet, prepared) as opened:
        yield opened


def test_the_product_is_released_and_answers_through_caddy(product: Product) -> None:
    product.release()
    outcome = product.cli("rollout", "start", "--watch", "2")

    assert outcome["status"] == "committed", outcome
    assert {gate["gate"]: gate["verdict"] for gate in outcome["gates"]} == {"traces": "unknown", "alerts": "unknown"}
    status, body = product.droplet.get("http://127.0.0.1:2020/health")
    assert (status, '"ok":true' in body.replace(" ", "")) == (200, True)
    assert product.droplet.get("http://127.0.0.1:80/mcp")[0] in {401, 405, 406}
    assert int(product.psql("SELECT count(*) FROM information_schema.tables WHERE table_name = 'tasks'")) == 1


def test_prometheus_sees_every_service_of_the_colour_that_serves(product: Product) -> None:
    """With the configuration that we ship, but for how often it asks."""
    folder = product.fleet.folder / "prometheus"
    shutil.copytree(product.repo / "deploy/prometheus", folder)
    file = folder / "droplet.yml"
    file.write_text(file.read_text().replace("scrape_interval: 15s", "scrape_interval: 1s"))
    at = "127.0.0.1:9090"
    argv = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={at}"]
    process = start_service(product.droplet, "prometheus", argv)
    wanted = {f"devtools-{service}": "1" for service in ("gateway", "context", "state", "console")}

    def up() -> bool:
        status, body = product.droplet.get(f"http://{at}/api/v1/query?query=up")
        results = json.loads(body)["data"]["result"] if status == 200 else []
        return {one["metric"]["job"]: one["value"][1] for one in results} == wanted

    try:
        wait_for(lambda: answers(product.droplet, f"http://{at}/-/ready"), 20, "prometheus")
        wait_for(up, 20, "every target")
    finally:
        end(process)


def test_the_container_is_not_root_reads_only_and_has_no_rights(product: Product) -> None:
    name = product.droplet.docker("ps", "--format", "{{.Names}}", "--filter", "name=stack").split()[0]
    wanted = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}"
    shown = product.droplet.docker("inspect", "--format", wanted, name)

    assert shown.strip() == "65534:65534 true [ALL] [no-new-privileges:true]"


def test_a_broken_build_of_the_product_is_rolled_back_and_the_data_stays(product: Product) -> None:
    product.psql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")
    product.release(('__version__ = "0.1.0"', '__version__ = "0.1.1"\nraise SystemExit("a bug in the release")'))
    outcome = product.cli("rollout", "start", code=21)

    assert outcome["failed_step"] == "health@web-2"
    assert "a bug in the release" in outcome["last_words"]["web-2"]["stack"]["log"]
    assert product.droplet.get("http://127.0.0.1:2020/health")[0] == 200
    assert product.psql("SELECT sum(id) FROM kept") == "500500"
