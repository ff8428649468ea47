from devtools_platform.agents.orchestration import changed_tests


def test_tests_that_were_there_before_and_changed_are_named() -> None:
    diff = (
        "--- a/src/app.py\n+++ b/src/app.py\n@@ -1 +1 @@\n-a\n+b\n"
        "--- a/tests/test_app.py\n+++ b/tests/test_app.py\n@@ -1 +1 @@\n-a\n+b\n"
        "--- /dev/null\n+++ b/tests/test_new.py\n@@ -0,0 +1 @@\n+x\n"
        "--- a/web/cart.spec.ts\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    )
    assert changed_tests(diff) == ["tests/test_app.py", "web/cart.spec.ts"]
    assert changed_tests("--- a/latest.py\n+++ b/latest.py\n") == []
