#!/usr/bin/env python3
"""bad_link.py SEED LOSS DUPLICATES SLOWEST: what the router forwards over IPv4 goes through here.

Of every 100 packets it drops LOSS and repeats DUPLICATES, and holds each for up to SLOWEST milliseconds, so that they
overtake each other. All that it does follows from SEED and the order of the packets. Prints `ready`; ends with its
standard input or a signal, and the router forwards by itself again.
"""
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NAME, TABLE = "bad0", "100"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def main():
    seed, loss, duplicates, slowest = (int(word) for word in sys.argv[1:5])
    noise = random.Random(seed)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", NAME, "up", "txqueuelen", "5000")
    ip("route", "replace", "default", "dev", NAME, "table", TABLE)
    for number, link in enumerate(("a0", "b0")):
        # What comes from a gateway goes to the device, what comes out of the device its usual way. The router's own
        # addresses are looked up before.
        rule = ["priority", str(50 + number), "iif", link, "lookup", TABLE]
        # One that ran before has left it.
        subprocess.run(["ip", "rule", "del", *rule], check=False, stderr=subprocess.DEVNULL)
        ip("rule", "add", *rule)
    print("ready", flush=True)
    held, order = [], 0
    while True:
        wait = None if not held else max(0.0, held[0][0] - time.monotonic())
        if select.select([tun], [], [], wait)[0]:
            try:
                packet = os.read(tun, 65536)
            except BlockingIOError:
                continue
            copies = 0 if noise.random() * 100 < loss else 2 if noise.random() * 100 < duplicates else 1
            for _ in range(copies):
                due = time.monotonic() + noise.random() * slowest / 1000
                heapq.heappush(held, (due, order, packet))
                order += 1
        while held and held[0][0] <= time.monotonic():
            try:
                os.write(tun, heapq.heappop(held)[2])
            except OSError as error:
                print(error, flush=True)


main()
