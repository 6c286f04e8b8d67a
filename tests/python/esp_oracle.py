"""A third opinion about ESP: scapy's IPsec layer opens what it is given and seals the same traffic itself.

Reads a JSON list on standard input; each item has `cipher` and `auth` by scapy's names, `key`, `auth_key`, `spi`, `seq`, `esn`
(the high half, or null), `tunnel`, `esp` with the IP packet it is to hold behind an outer header (`outer`), and `inner`, a
packet to seal. Writes a list of `opened`, the packet that was in `esp`, and `sealed`, the ESP packet with `inner`. All octets
are hexadecimal.
"""

import json
import logging
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.inet import IP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.ipsec import ESP, SecurityAssociation  # noqa: E402


def packet(octets):
    octets = bytes.fromhex(octets)
    return IP(octets) if octets[0] >> 4 == 4 else IPv6(octets)


def answer(item):
    options = {}
    if item["auth"]:
        options.update(auth_algo=item["auth"], auth_key=bytes.fromhex(item["auth_key"]))
    if item["tunnel"]:
        options["tunnel_header"] = packet(item["outer"]).__class__(src=packet(item["outer"]).src, dst=packet(item["outer"]).dst)
    sa = SecurityAssociation(
        ESP, spi=item["spi"], crypt_algo=item["cipher"], crypt_key=bytes.fromhex(item["key"]),
        esn_en=item["esn"] is not None, esn=item["esn"] or 0, **options)
    opened = sa.decrypt(packet(item["outer"] + item["esp"]))
    sealed = sa.encrypt(packet(item["inner"]), seq_num=item["seq"])
    return {"opened": bytes(opened).hex(), "sealed": bytes(sealed[ESP]).hex()}


json.dump([answer(item) for item in json.load(sys.stdin)], sys.stdout)
