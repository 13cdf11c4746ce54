"""What schemathesis is told of the broker that it tries: which ids there are, and what every answer must be.

It makes up ids that nobody has, and so would see hardly anything but 404. Three times of four one that it made up is replaced by one of
KNOWN (JSON: the name of a parameter or member to the values it can have). Which, is told by what it made up: the same case is sent the
same way again.
"""

import json
import os
import zlib

import schemathesis

KNOWN = json.loads(os.environ["KNOWN"])
# A call may ask to wait for a person, up to half a minute, or to follow what comes, up to an hour. There are thousands of calls.
LONGEST_WAIT = 1


def some(made_up, *names):
    """A value for a parameter, mostly one that is known by one of its names."""
    values = next((KNOWN[name] for name in names if name in KNOWN), None)
    number = zlib.crc32(f"{names} {made_up!r}".encode())
    return values[number // 4 % len(values)] if values and number % 4 else made_up


def soon(members, name):
    """Takes a number of seconds down to what a test has time for."""
    try:
        if int(members.get(name) or 0) > LONGEST_WAIT:
            members[name] = LONGEST_WAIT
    except (TypeError, ValueError, OverflowError):
        pass


@schemathesis.hook
def before_call(ctx, case, kwargs):
    # `{id}` is of whatever the path is about: /v1/grants/{id}.
    noun = case.path.removeprefix("/v1/").split("/")[0]
    in_path = case.path_parameters if isinstance(case.path_parameters, dict) else {}
    for name, made_up in in_path.items():
        kind = f"{noun}.id" if name == "id" else name
        # What is deleted or disabled is not what everything else is tried with.
        names = {"DELETE": [f"spare {kind}"], "PATCH": [f"spare {kind}", kind]}.get(case.method.upper(), [kind])
        case.path_parameters[name] = some(made_up, *names)
    if isinstance(case.query, dict):
        for name, made_up in case.query.items():
            case.query[name] = some(made_up, name)
        soon(case.query, "wait")
    if isinstance(case.body, dict):
        for name, made_up in case.body.items():
            case.body[name] = some(made_up, name)
        soon(case.body, "follow")


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """What is made up for a body of lines, of which it knows no form."""
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@schemathesis.check
def the_answer_is_what_the_description_says(ctx, response, case):
    """A success is one that the operation names, and a refusal of ours is a problem document with its own status."""
    ours = "valet-error" in {name.lower() for name in response.headers}
    if case.path.startswith("/v1/proxy/") and not ours:
        # The provider's answer, of which nothing is said.
        return
    described = case.operation.definition.raw["responses"]
    if response.status_code < 400:
        assert str(response.status_code) in described, f"{response.status_code} is not among {sorted(described)}"
    elif ours and response.content:
        problem = response.json()
        assert problem["status"] == response.status_code, problem
        assert problem["code"] and problem["detail"], problem
