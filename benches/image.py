#!/usr/bin/env python3
"""What benches/image measures with: commands in turns, and a storm of opens.

image.py tools RUNS FILE    lines of name, preparation and command, tab between
image.py starts RUNS FILE   lines of name and command
image.py storm DIR NAMES    opens and reads what NAMES lists, cold and warm
"""

import os
import shlex
import statistics
import subprocess
import sys
import time


def lines(path):
    with open(path) as file:
        return [line.rstrip("\n").split("\t") for line in file]


def together(session):
    """KiB of all processes of a session, what they share counted once."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if int(stat.read().rsplit(")", 1)[1].split()[3]) != session:
                    continue
            with open(f"/proc/{pid}/smaps_rollup") as smaps:
                total += sum(int(l.split()[1]) for l in smaps if l.startswith("Pss:"))
        except (OSError, ProcessLookupError):
            pass
    return total


def measured(command):
    """Seconds, seconds of processor, peak MiB, MiB written; nothing if it failed."""
    with open("log.txt", "wb") as log:
        began = time.monotonic()
        child = subprocess.Popen(
            shlex.split(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        peak = 0
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, together(child.pid))
            time.sleep(0.05)
        clock = time.monotonic() - began
    if status:
        with open("log.txt", errors="replace") as log:
            print(f"{command}: failed: {log.read()[-300:]}")
        return None
    # In blocks of 512 bytes; of this process and all that it waited for.
    return clock, usage.ru_utime + usage.ru_stime, peak / 1024, usage.ru_oublock / 2048


def tools(runs, path):
    found = {}
    for _ in range(runs):
        for name, prepare, command in lines(path):
            subprocess.run(prepare, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            os.sync()
            if took := measured(command):
                found.setdefault(name, []).append(took)
    for name, all in found.items():
        clock, processor, peak, written = (f(v) for f, v in zip((min, min, max, min), zip(*all)))
        print(f"{name:<26} {clock:8.2f} {processor:12.2f} {peak:26.0f} {written:14.0f}")
    first, *others = found
    for column, what in ((0, "clock"), (1, "processor")):
        best = min(min(v[column] for v in found[name]) for name in others)
        ratio = min(v[column] for v in found[first]) / best
        print(f"{first} is {ratio:.2f} of the best other by the {what}")


def starts(runs, path):
    found = {}
    for round in range(runs + 1):
        for name, command in lines(path):
            words = shlex.split(command)
            began = time.monotonic()
            done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            took = (time.monotonic() - began) * 1000
            if done.returncode:
                sys.exit(f"{command}: {done.stderr.decode(errors='replace')[-500:]}")
            # What an end leaves to the kernel is no part of the next start.
            time.sleep(0.03)
            if round:
                found.setdefault(name, []).append(took)
    base = None
    for name, all in found.items():
        median = statistics.median(all)
        base = base or median
        print(f"{name:<46} {median:8.2f}   best {min(all):8.2f}   {median / base:5.2f} of the first")


def storm(directory, path):
    with open(path) as file:
        names = file.read().split("\n")[:-1]
    took = []
    for _ in range(2):
        began = time.monotonic()
        for name in names:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY)
            os.read(fd, 65536)
            os.close(fd)
        took.append(time.monotonic() - began)
    print("cold {:.3f} s, warm {:.3f} s".format(*took))


def main():
    what, first, second = sys.argv[1:]
    if what == "storm":
        storm(first, second)
    else:
        {"tools": tools, "starts": starts}[what](int(first), second)


main()
