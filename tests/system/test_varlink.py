# SPDX-License-Identifier: LGPL-2.1-or-later
"""memocd's socket, seen by a varlink client that shares no code with memoc.

Everything here is written from varlink's own documents: messages are JSON objects that end with a NUL byte; a call has
"method", "parameters", "oneway", "more"; a reply has "parameters", "continues" or "error"; replies come in the order of
the calls; and the interface description tells every method, type and error, so the replies are checked against it.
"""

import json
import pathlib
import re
import socket
import time

import host
from host import LabError, wait_for
from lab import Guest, Memocd, PrivateLibvirtd
from memocd import TREE
from run import limit

CONTROLLER = "org.memoc.Controller"
MESSAGE_MAX = 1 << 20  # a longer message ends its sender's connection


# ---- the client ----

class Closed(Exception):
    """The service has ended the connection."""


class Client:
    def __init__(self, path, limit_s=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(limit_s * host.SLOW)
        self.socket.connect(str(path))
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    @staticmethod
    def message(method, parameters=None, **flags):
        call = {"method": method, **flags}
        if parameters is not None:
            call["parameters"] = parameters
        return json.dumps(call).encode() + b"\0"

    def send(self, method, parameters=None, **flags):
        self.socket.sendall(self.message(method, parameters, **flags))

    def receive(self):
        while b"\0" not in self.rest:
            try:
                piece = self.socket.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Closed(f"after {len(self.rest)} bytes of an unfinished reply")
            self.rest += piece
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def call(self, method, parameters=None):
        self.send(method, parameters)
        return self.receive()

    def controller(self, method, **parameters):
        """Reply parameters of a call that must succeed."""
        reply = self.call(f"{CONTROLLER}.{method}", parameters)
        assert "error" not in reply, f"{method}({parameters}): {reply}"
        return reply.get("parameters", {})

    def wait_closed(self):
        """Reads until the service ends the connection; how many replies came."""
        count = 0
        try:
            while True:
                self.receive()
                count += 1
        except Closed:
            return count


# ---- the interface description: a parser for varlink's grammar, and a check of values against its types ----

class Interface:
    TOKEN = re.compile(r"\s+|#[^\n]*|->|\[string\]|\[\]|[():,?]|[A-Za-z][A-Za-z0-9_.-]*")

    def __init__(self, text):
        self.tokens = []
        at = 0
        while at < len(text):
            found = self.TOKEN.match(text, at)
            assert found, f"not varlink's grammar: {text[at:at + 40]!r}"
            at = found.end()
            if not found.group().isspace() and not found.group().startswith("#"):
                self.tokens.append(found.group())
        self.types, self.methods, self.errors = {}, {}, {}
        self.expect("interface")
        self.name = self.tokens.pop(0)
        while self.tokens:
            self.member()

    def expect(self, token):
        got = self.tokens.pop(0)
        assert got == token, f"{token!r} expected, {got!r} found, before {self.tokens[:5]}"

    def member(self):
        word, name = self.tokens.pop(0), self.tokens.pop(0)
        if word == "method":
            parameters = self.struct()
            self.expect("->")
            self.methods[name] = (parameters, self.struct())
        elif word == "error":
            self.errors[name] = self.struct()
        else:
            assert word == "type", f"unknown member {word}"
            self.types[name] = self.struct()

    def struct(self):
        """{name: type}, or a list of names for an enum."""
        self.expect("(")
        fields, names = {}, []
        while self.tokens[0] != ")":
            name = self.tokens.pop(0)
            if self.tokens[0] == ":":
                self.expect(":")
                fields[name] = self.type()
            else:
                names.append(name)
            if self.tokens[0] == ",":
                self.expect(",")
        self.expect(")")
        assert not (fields and names), f"struct and enum mixed: {names}"
        return names or fields

    def type(self):
        if self.tokens[0] in ("?", "[]", "[string]"):
            return (self.tokens.pop(0), self.type())
        return self.struct() if self.tokens[0] == "(" else self.tokens.pop(0)

    def problems(self, value, kind, where):
        """What of a JSON value does not fit its declared type."""
        if isinstance(kind, tuple):
            return self.container_problems(value, kind, where)
        kind = self.types.get(kind, kind) if isinstance(kind, str) else kind
        if isinstance(kind, list):
            return [] if value in kind else [f"{where}: {value!r} is none of {kind}"]
        if isinstance(kind, dict):
            return self.struct_problems(value, kind, where)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = {"bool": isinstance(value, bool), "int": number and isinstance(value, int), "float": number,
                "string": isinstance(value, str), "object": isinstance(value, dict)}[kind]
        return [] if good else [f"{where}: {value!r} is no {kind}"]

    def container_problems(self, value, kind, where):
        container, inner = kind
        if container == "?":
            return [] if value is None else self.problems(value, inner, where)
        if not isinstance(value, list if container == "[]" else dict):
            return [f"{where}: {value!r} is no {container}"]
        pairs = enumerate(value) if container == "[]" else value.items()
        return [text for key, each in pairs for text in self.problems(each, inner, f"{where}[{key}]")]

    def struct_problems(self, value, fields, where):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        found = [f"{where}.{key}: not declared" for key in value if key not in fields]
        for key, kind in fields.items():
            if key not in value and not (isinstance(kind, tuple) and kind[0] == "?"):
                found.append(f"{where}.{key}: missing")
            elif key in value:
                found += self.problems(value[key], kind, f"{where}.{key}")
        return found


# ---- the service under test ----

class Service:
    """memocd with one guest, and one more VM that is defined but not running."""

    def __init__(self, lab):
        self.lab = lab
        self.libvirtd = PrivateLibvirtd(lab)
        self.libvirtd.start()
        self.guest = Guest(lab, self.libvirtd, "web1", 256, swap_mib=32)
        self.guest.start()
        self.memocd = Memocd(lab, self.libvirtd, {"host": {"pool": "3G", "reserve": "256M"}, "log": {"events": "64"}})
        self.memocd.start()
        self.guest.wait_ready()
        self.memocd.wait_vm("web1", lambda vm: vm["usable_bytes"] is not None, 40, "statistics")

    def connect(self):
        return Client(self.memocd.socket)

    def description(self, name=CONTROLLER):
        with self.connect() as client:
            reply = client.call("org.varlink.service.GetInterfaceDescription", {"interface": name})
            return reply["parameters"]["description"]

    def wait_logged(self, *words):
        text = self.memocd.log
        wait_for(lambda: any(all(word in line for word in words) for line in text.read_text(encoding="utf-8").splitlines()),
                 20, f"memocd's log to say {words}", show=lambda: host.tail(text, 5))

    def assert_serves_others(self):
        with self.connect() as client:
            assert [vm["name"] for vm in client.controller("List")["vms"]] == ["web1"]


def fixture(lab):
    yield Service(lab)


def test_get_info(service):
    """GetInfo names the service and its interfaces."""
    with service.connect() as client:
        info = client.call("org.varlink.service.GetInfo")["parameters"]
    assert set(info) == {"vendor", "product", "version", "url", "interfaces"}, info
    assert info["product"] == "memocd" and info["version"] == service.memocd.host()["version"], info
    assert {"org.varlink.service", CONTROLLER, "org.memoc.Hook"} <= set(info["interfaces"]), info


def test_descriptions(service):
    """Each interface is described in varlink's grammar; ours as the shipped file has it, and each method is served."""
    shipped = pathlib.Path(TREE / f"common/{CONTROLLER}.varlink").read_text(encoding="utf-8")
    assert service.description() == shipped
    with service.connect() as client:
        for name in client.call("org.varlink.service.GetInfo")["parameters"]["interfaces"]:
            interface = Interface(service.description(name))
            assert interface.name == name and interface.methods
        controller = Interface(shipped)
        promised = {"List", "Info", "Host", "Explain", "Events", "History", "GetPolicy", "SetPolicy", "Resize", "Hold",
                    "Release", "Drain", "Config"}
        assert promised <= set(controller.methods), promised - set(controller.methods)
        for method in controller.methods:
            # No VM is called so: nothing is changed by trying.
            error = client.call(f"{CONTROLLER}.{method}", {"vm": "no-such-vm"}).get("error", "")
            assert "MethodNot" not in error, f"{method}: {error}"


def test_list(service):
    """List, as another project's client sees it, is what memoc list --json shows, and true."""
    with service.connect() as client:
        vms = client.controller("List")["vms"]
    assert len(vms) == 1 and vms[0]["name"] == "web1" and vms[0]["uuid"] == service.guest.uuid, vms
    assert vms[0]["max_bytes"] == 256 << 20
    usage = service.guest.cgroup().usage()
    assert 0.5 * usage < vms[0]["resident_bytes"] < 1.5 * usage, (vms[0]["resident_bytes"], usage)


def test_replies_match_their_description(service):
    """Every reply has exactly the members and types that the interface description declares."""
    interface = Interface(service.description())
    calls = {"List": {"all": True}, "Info": {"vm": "web1"}, "Host": {}, "Explain": {"vm": "web1"}, "Events": {},
             "GetPolicy": {"vm": service.guest.uuid}, "Config": {}, "Resize": {"vm": "web1"}, "Hold": {"vm": "web1"},
             "Release": {"vm": "web1"}, "SetPolicy": {"vm": "web1", "values": {"weight": "100"}}}
    with service.connect() as client:
        for method, parameters in calls.items():
            reply = client.call(f"{CONTROLLER}.{method}", parameters)
            assert set(reply) <= {"parameters"}, f"{method}: {reply}"
            found = interface.problems(reply.get("parameters", {}), interface.methods[method][1], method)
            assert not found, "\n".join(found)


def test_error_replies(service):
    """Errors have the declared names and parameters, and the connection goes on."""
    interface = Interface(service.description())
    cases = [
        ("org.memoc.Nothing.List", {}, "org.varlink.service.InterfaceNotFound", {"interface": "org.memoc.Nothing"}),
        (f"{CONTROLLER}.Nothing", {}, "org.varlink.service.MethodNotFound", {"method": f"{CONTROLLER}.Nothing"}),
        ("org.varlink.service.Nothing", {}, "org.varlink.service.MethodNotFound", None),
        (f"{CONTROLLER}.Info", {}, "org.varlink.service.InvalidParameter", {"parameter": "vm"}),
        (f"{CONTROLLER}.Info", {"vm": 7}, "org.varlink.service.InvalidParameter", {"parameter": "vm"}),
        (f"{CONTROLLER}.List", {"all": "yes"}, "org.varlink.service.InvalidParameter", {"parameter": "all"}),
        (f"{CONTROLLER}.Resize", {"vm": "web1", "bytes": -1}, "org.varlink.service.InvalidParameter", {"parameter": "bytes"}),
        (f"{CONTROLLER}.Hold", {"vm": ["web1"]}, "org.varlink.service.InvalidParameter", {"parameter": "vm"}),
        (f"{CONTROLLER}.Info", {"vm": "nobody"}, f"{CONTROLLER}.NoSuchVm", {"vm": "nobody"}),
        (f"{CONTROLLER}.Resize", {"vm": "web1", "bytes": 1 << 40}, f"{CONTROLLER}.Refused", None),
        (f"{CONTROLLER}.SetPolicy", {"vm": "web1", "values": {"weight": "0"}}, f"{CONTROLLER}.Refused", None),
        (f"{CONTROLLER}.History", {"vm": "web1"}, f"{CONTROLLER}.NotSupported", None),
    ]
    with service.connect() as client:
        for method, parameters, error, details in cases:
            reply = client.call(method, parameters)
            assert reply.get("error") == error, f"{method}({parameters}): {reply}"
            if details is not None:
                assert reply["parameters"] == details, f"{method}({parameters}): {reply}"
            if error.startswith(CONTROLLER):
                kind = interface.errors[error.rpartition(".")[2]]
                assert not interface.problems(reply["parameters"], kind, error), reply
        assert client.controller("List")["vms"], "the connection must go on after errors"


def test_pipelining_and_pieces(service):
    """Calls sent at once are answered in order; a call that arrives byte by byte is one call; oneway gets no answer."""
    with service.connect() as client:
        names = [f"vm{i}" for i in range(200)]
        calls = [client.message(f"{CONTROLLER}.Info", {"vm": name}) for name in names]
        calls.insert(100, client.message(f"{CONTROLLER}.Info", {"vm": "not answered"}, oneway=True))
        client.socket.sendall(b"".join(calls))
        assert [client.receive()["parameters"]["vm"] for _ in names] == names
        for byte in client.message(f"{CONTROLLER}.Host"):
            client.socket.sendall(bytes([byte]))
        assert client.receive()["parameters"]["host"]["vms"] == 1


def test_events_with_more(service):
    """With more: what is there, then each event as it comes, marked as continuing. Without: one final reply."""
    with service.connect() as follower, service.connect() as other:
        for _ in range(3):  # a history of its own, whatever ran before
            other.controller("Hold", vm="web1")
            other.controller("Release", vm="web1")
        reply = other.call(f"{CONTROLLER}.Events", {"limit": 3})
        assert len(reply["parameters"]["events"]) == 3 and not reply.get("continues"), reply
        follower.send(f"{CONTROLLER}.Events", {"vm": "web1", "limit": 5}, more=True)
        first = follower.receive()
        assert first["continues"] is True and len(first["parameters"]["events"]) == 5, first
        last = first["parameters"]["events"][-1]["details"]["number"]
        other.controller("Hold", vm="web1")
        other.controller("Release", vm="web1")
        seen = []
        while "released" not in seen:
            reply = follower.receive()
            assert reply["continues"] is True, reply
            for event in reply["parameters"]["events"]:
                assert event["vm"] == "web1" and event["details"]["number"] > last, event
                last = event["details"]["number"]
                seen.append(event["event"])
        assert seen.index("held") < seen.index("released"), seen


def test_bad_clients_are_dropped_alone(service):
    """A message over the limit, garbage, or deep nesting end that connection, with a reason in the log; no other."""
    with service.connect() as witness:
        witness.send(f"{CONTROLLER}.Events", {"vm": "nobody"}, more=True)
        witness.receive()
        bad = {
            "limit": b'{"method":"' + b"x" * (MESSAGE_MAX + 4096),
            "not a varlink call": b"GET / HTTP/1.1\r\n\r\n\0",
            "nested": b'{"method":"a.b.C","parameters":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}\0",
        }
        for reason, message in bad.items():
            with service.connect() as client:
                try:
                    client.socket.sendall(message)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # dropped before it could send all of it
                assert client.wait_closed() == 0, f"answered to {message[:40]!r}…"
            service.wait_logged("dropped", reason)
            service.assert_serves_others()
        with service.connect() as client:  # half a message, and gone
            client.socket.sendall(b'{"method":"org.memoc')
        service.assert_serves_others()
        witness.socket.settimeout(0.2)
        try:
            raise AssertionError(f"the witness got {witness.receive()}")
        except socket.timeout:
            pass  # still connected, and told nothing


@limit(240)
def test_slow_readers(service):
    """Who does not read gets no more answers or is dropped; others are served meanwhile, and memocd does not grow."""
    before = host.proc_status_bytes(service.memocd.pid, "VmRSS")
    with service.connect() as sender, service.connect() as follower, service.connect() as driver:
        # Pipelined calls whose answers nobody reads: memocd stops reading, so that sending blocks at last.
        call = sender.message("org.varlink.service.GetInterfaceDescription", {"interface": CONTROLLER})
        sender.socket.settimeout(1 * host.SLOW)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += sender.socket.send(call * 100)
        except socket.timeout:
            pass
        assert sent < 64 << 20, "memocd took calls without end from a client that reads nothing"
        service.assert_serves_others()
        # A subscriber that does not read, while events are made: dropped when too much has gathered.
        follower.send(f"{CONTROLLER}.Events", {}, more=True)
        follower.receive()
        pair = driver.message(f"{CONTROLLER}.Hold", {"vm": "web1"}) + driver.message(f"{CONTROLLER}.Release", {"vm": "web1"})
        deadline = time.monotonic() + 150 * host.SLOW
        while "over the limit of unread_bytes" not in service.memocd.log.read_text(encoding="utf-8"):
            driver.socket.sendall(pair * 200)
            for _ in range(400):
                assert "error" not in driver.receive()
            if time.monotonic() > deadline:
                raise LabError("a subscriber that never reads is not dropped")
        service.wait_logged("dropped", "unread_bytes")
        follower.wait_closed()
        service.assert_serves_others()
    grown = host.proc_status_bytes(service.memocd.pid, "VmRSS") - before
    assert grown < 32 << 20, f"memocd grew by {grown >> 20} MiB"


def test_too_many_clients(service):
    """More connections than the limit: the newest are closed, the older ones are served on."""
    clients = [service.connect() for _ in range(80)]
    try:
        refused = 0
        for client in clients:
            try:
                client.send("org.varlink.service.GetInfo")
                client.receive()
            except (Closed, BrokenPipeError):
                refused += 1
        assert 0 < refused < 80 and refused == 80 - 64, refused
        assert clients[0].controller("List")["vms"]
    finally:
        for client in clients:
            client.socket.close()
    wait_for(lambda: service.memocd.run("list").returncode == 0, 10, "memocd to serve again")


def test_config_in_the_open(service):
    """Config names the effective value of every setting with its source."""
    with service.connect() as client:
        settings = {row["key"]: row for row in client.controller("Config")["settings"]}
    assert settings["host.pool"]["value"] == "3G", settings["host.pool"]
    assert str(service.memocd.config_path) in settings["host.pool"]["source"], settings["host.pool"]
    assert settings["balloon.enabled"]["source"] != settings["host.pool"]["source"]
