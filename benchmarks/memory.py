"""Measures the memory of this process."""

import os
import threading


def resident_bytes():
    """Returns the resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """Samples the resident memory every 5 ms while the context lasts; `peak_gb` is the largest growth seen."""

    def __enter__(self):
        self._base = self._peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, resident_bytes())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.peak_gb = (max(self._peak, resident_bytes()) - self._base) / 1e9
