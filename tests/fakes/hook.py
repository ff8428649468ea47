"""Send one webhook to a stack, as GitHub or Linear would: `python -m fakes.hook github http://127.0.0.1:8009 "TEXT"`.

For GitHub a member's comment on issue 7 of acme/shop, for Linear a new session about issue ENG-7.
"""

import json
import sys
import uuid

import httpx2

from fakes import github_server, linear_server


def main() -> None:
    service, url, text = sys.argv[1], sys.argv[2], sys.argv[3]
    id_ = str(uuid.uuid4())
    if service == "github":
        person = {"login": "you", "type": "User"}
        payload = {
            "action": "created",
            "issue": {"number": 7, "title": "Try it", "body": ""},
            "comment": {"id": 1, "body": text, "author_association": "OWNER", "user": person, "node_id": id_},
            "repository": {"full_name": "acme/shop", "default_branch": "main"},
            "sender": person,
        }
        body = json.dumps(payload).encode()
        headers = github_server.signed(body, "issue_comment", id_)
    else:
        body = linear_server.to_bytes(linear_server.session_event(id_, text=text))
        headers = linear_server.signed(body)
    response = httpx2.post(f"{url}/webhooks/{service}", content=body, headers=headers, trust_env=False)
    sys.stdout.write(f"{response.status_code} {response.text}\n")


if __name__ == "__main__":
    main()
