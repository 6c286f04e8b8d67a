"""A tunnel's whole life by PyPI's vici library, unmodified: vici_life.py SOCKET OUR_ADDRESS PEER_ADDRESS OUR_NET PEER_NET SECRET."""

import queue
import socket
import sys
import threading

import vici

path, own, peer, own_net, peer_net, secret = sys.argv[1:7]


def session():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return vici.Session(connection)


gateway, listener = session(), session()
events = queue.Queue()


def listen():
    kinds = ["ike-updown", "child-updown", "ike-rekey", "child-rekey"]
    for kind, message in listener.listen(kinds, timeout=0.5):
        if kind is not None:
            events.put((kind.decode(), message))
        else:
            ready.set()


ready = threading.Event()
threading.Thread(target=listen, daemon=True).start()
assert ready.wait(30), "the listener registers"


def expect(wanted, up=None):
    while True:
        kind, message = events.get(timeout=30)
        if kind == wanted and (up is None or (message.get("up") == b"yes") == up):
            print("event", kind, up)
            return message


assert list(gateway.get_conns()["conns"]) == []
gateway.load_shared({"id": "psk", "type": "IKE", "data": secret, "owners": ["a.lab.example", "b.lab.example"]})
connection = {
    "version": "2",
    "local_addrs": [own],
    "remote_addrs": [peer],
    "proposals": ["aes256gcm16-prfsha384-x25519"],
    "local": {"auth": "psk", "id": "a.lab.example"},
    "remote": {"auth": "psk", "id": "b.lab.example"},
    "children": {
        "net": {"local_ts": [own_net], "remote_ts": [peer_net], "esp_proposals": ["aes256gcm16"]},
    },
}
try:
    gateway.load_conn({"gw": {**connection, "nonsense": "1"}})
    raise SystemExit("a key that does not exist was taken")
except vici.exception.CommandException as error:
    assert "unknown option: nonsense, config discarded" in str(error), error
gateway.load_conn({"gw": connection})
assert list(gateway.get_conns()["conns"]) == [b"gw"]
assert list(gateway.get_shared()["keys"]) == [b"psk"]

lines = list(gateway.initiate({"ike": "gw", "child": "net", "timeout": "20000"}))
assert lines, "no progress"
assert expect("ike-updown", True)["gw"]["state"] == b"ESTABLISHED"
(child,) = expect("child-updown", True)["gw"]["child-sas"].values()
before = child["spi-in"]

gateway.rekey({"child": "net"})
(pair,) = expect("child-rekey")["gw"]["child-sas"].values()
assert pair["old"]["spi-in"] == before and pair["new"]["spi-in"] != before, pair
gateway.rekey({"ike": "gw"})
both = expect("ike-rekey")["gw"]
assert both["old"]["initiator-spi"] != both["new"]["initiator-spi"], both

assert list(gateway.terminate({"ike": "gw", "timeout": "20000"})) is not None
expect("child-updown", False)
expect("ike-updown", False)
gateway.unload_conn({"name": "gw"})
gateway.unload_shared({"id": "psk"})
assert list(gateway.get_conns()["conns"]) == [] and list(gateway.list_sas()) == []
print("all good")
