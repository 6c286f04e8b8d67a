"""Runs a program in a terminal until it has shown something, interrupts it, and tells what it left of the terminal.

terminal.py TEXT PROGRAM ARGUMENT...: prints "same" if the terminal's settings are as before, and what was written last.
"""

import fcntl
import os
import select
import subprocess
import sys
import termios
import time

wanted, command = sys.argv[1].encode(), sys.argv[2:]
master, slave = os.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x18\x00\x64\x00\x00\x00\x00\x00")
before = termios.tcgetattr(slave)


def own_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


program = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal)
output, deadline, interrupted = b"", time.monotonic() + 20, False
while time.monotonic() < deadline:
    readable, _, _ = select.select([master], [], [], 0.1)
    if readable:
        output += os.read(master, 65536)
    elif program.poll() is not None:
        break
    if wanted in output and not interrupted:
        if termios.tcgetattr(slave) == before:
            sys.exit("the program does not keep the terminal's echo off the picture")
        os.write(master, b"\x03")
        interrupted = True
status = program.poll()
if status is None:
    program.kill()
    sys.exit("no end after Ctrl-C: %r" % output[-300:])
print("same" if termios.tcgetattr(slave) == before else "different")
print(status)
print(repr(output[-40:]))
