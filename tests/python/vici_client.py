"""PyPI's vici library against a daemon: vici_client.py SOCKET. Prints a line for each step, ends with 0 if all hold."""

import socket
import sys

import vici

connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
session = vici.Session(connection)

version = session.version()
print("version", version["daemon"], version["version"])
assert version["daemon"], version

connections = [name for event in session.list_conns() for name in event]
print("connections", connections)
assert connections == ["gw"], connections

assert list(session.list_sas()) == []
lines = [event["msg"].decode() for event in session.initiate({"ike": "gw", "child": "net", "timeout": "15000"})]
print("initiate", lines)
assert lines, "no progress while initiating"

(event,) = list(session.list_sas({"ike": "gw"}))
(child,) = event["gw"]["child-sas"].values()
print("established", event["gw"]["state"], child["state"], child["spi-in"])
assert event["gw"]["state"] == b"ESTABLISHED", event
assert child["state"] == b"INSTALLED" and child["mode"] == b"TUNNEL", child
assert list(session.list_sas({"ike": "other"})) == []

try:
    list(session.initiate({"child": "no-such-child"}))
    raise SystemExit("an unknown child was initiated")
except vici.exception.CommandException as error:
    print("refused", error)
    assert "no-such-child" in str(error), error

list(session.terminate({"ike": "gw", "timeout": "15000"}))
assert list(session.list_sas()) == []
try:
    list(session.terminate({"ike": "gw"}))
    raise SystemExit("nothing was terminated, successfully")
except vici.exception.CommandException as error:
    print("refused", error)

try:
    session.request("no-such-command")
    raise SystemExit("an unknown command was answered")
except vici.exception.SessionException as error:  # the library's name for the answer CMD_UNKNOWN
    print("refused", error)
assert session.version() == version
print("all good")
