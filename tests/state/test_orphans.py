"""What a worker takes for lost: not a batch that it is still starting."""

from devtools_platform.state.adapters.dbos.engine import ORPHANED_AFTER_S, Orphanage


def test_a_batch_that_is_still_being_started_is_not_lost_however_long_it_takes() -> None:
    orphanage = Orphanage()
    batch = {f"w{n}" for n in range(100)}
    started: set[str] = set()
    for second in range(0, 500, 5):
        assert orphanage.judge(batch - started, started, float(second)) == set()
        started = started | {f"w{second // 5}"}


def test_what_nobody_starts_is_lost_after_a_while_and_only_that() -> None:
    orphanage = Orphanage()
    assert orphanage.judge({"lost", "late"}, {"busy"}, 0.0) == set()
    assert orphanage.judge({"lost"}, {"busy", "late"}, 5.0) == set()
    assert orphanage.judge({"lost"}, {"busy", "late"}, 4.0 + ORPHANED_AFTER_S) == set()
    assert orphanage.judge({"lost"}, {"busy", "late"}, 5.0 + ORPHANED_AFTER_S) == {"lost"}


def test_what_turned_up_again_is_forgotten() -> None:
    orphanage = Orphanage()
    orphanage.judge({"a"}, set(), 0.0)
    orphanage.judge(set(), set(), 10.0)
    assert orphanage.judge({"a"}, set(), ORPHANED_AFTER_S) == set()
