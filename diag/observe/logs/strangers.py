"""Which files are not the log of a launch at all: something else by form, and nothing of a launch in it.

In doubt a file is a log: an unknown failure must stay unknown, and a quiet log healthy.
"""

from __future__ import annotations

from diag.observe.logs import kinds
from diag.observe.logs.filestate import FileReading
from diag.observe.logs.forms import recognise
from diag.observe.logs.kinds import FIELD, LOG_LINE, is_prose, is_readme, kind_of
from diag.system.lazy import lazily

_LOG_NAMES = (".log", ".out", ".err", ".journal")
_SERVICES = lazily(
    r"(?:systemd(?:-\w+)*|kernel|dbus\S*|gnome\S*|gdm\S*|org\.\S+|\(\S+\)|NetworkManager|wpa_supplicant|ModemManager|avahi-\w+|bluetoothd"
    r"|pulseaudio|pipewire\S*|wireplumber|rtkit\S*|polkit\S*|udisksd|upowerd|accounts-daemon|cron|CRON|anacron|sshd|sudo|su|login"
    r"|snapd|snap\S*|packagekitd|fwupd\S*|colord|cups\S*|thermald|irqbalance|rsyslogd|chronyd|ntpd|dhclient|dhcpcd|kded\d|plasma\S*|kwin\S*"
    r"|xdg-\S+|tracker\S*|evolution\S*|firefox|chrome|Xorg|at-spi\S*|ibus\S*|update-notifier|unattended-upgr\S*|apt\S*|mtp-probe|usb\S*"
    r"|audit\S*|geoclue|switcheroo\S*|power-profiles\S*|low-memory\S*|boltd|multipathd|nm-\S+|pkexec|session\S*|vmtoolsd|spice\S*)"
)


def stranger(name: str, head: bytes, reading: FileReading) -> str | None:
    """What the file is instead of a launch's log; None where it may be one."""
    if name.endswith(_LOG_NAMES) and reading.framework:
        return None
    kind = kind_of(name, head)
    if kind is None or recognise_records(head):
        return None
    return kind if is_readme(name) or _REFUSED[kind](head, reading) else None


def recognise_records(head: bytes) -> bool:
    """True for what is read as the records or the table of a logging service."""
    return any(type(form).__name__ in ("JsonLines", "JsonDocument", "Table") for form in recognise(head))


def _strong(reading: FileReading) -> bool:
    """An exception, a launcher's word on an exit, or a known message on a line that calls itself a failure
    (what a sentence mentions in passing has not happened)."""
    failing = {one.order for one in reading.observations if one.kind in ("failure", "dead")}
    return any(
        one.kind == "exception" or not is_prose(one.text.encode())
        for one in reading.observations
        if (one.kind == "exception" and not one.fields.get("ignored"))
        or one.kind == "exit"
        or (one.kind == "log" and not one.note and one.order in failing)
    )


def _always(_head: bytes, _reading: FileReading) -> bool:
    return True


def _tells_nothing(_head: bytes, reading: FileReading) -> bool:
    return not _strong(reading)


def _tells_no_progress(head: bytes, reading: FileReading) -> bool:
    """Data without the losses that a training loop writes."""
    return not _strong(reading) and not any(one.kind == "alive" for one in reading.observations)


def _raises_nothing(_head: bytes, reading: FileReading) -> bool:
    """A conversation in which nobody pasted a traceback or a launcher's word on an exit."""
    return not any(one.kind in ("exception", "exit") for one in reading.observations)


def _of_no_word(head: bytes, reading: FileReading) -> bool:
    """Another program's log, whatever failed in it, if nothing of a launch is mentioned."""
    excepted = any(one.kind == "exception" for one in reading.observations)
    return not excepted and reading.framework is None and not FIELD.search(head)


def _of_no_program(head: bytes, reading: FileReading) -> bool:
    return not _strong(reading) and reading.framework is None and not FIELD.search(head)


def _prints_nothing(head: bytes, reading: FileReading) -> bool:
    """A page: nothing between its tags looks printed."""
    for form in recognise(head):
        head = form.again().feed(head, last=True)
    return not any(LOG_LINE.match(line) for line in head.split(b"\n")) and not any(
        one.kind == "exception" for one in reading.observations
    )


def _of_services(head: bytes, reading: FileReading) -> bool:
    """A journal in which only the system's own services speak, and nobody of a launch, its scheduler or its drivers."""
    if reading.framework is not None or FIELD.search(head):
        return False
    return all(
        one.origin.process is not None
        and _SERVICES.fullmatch(one.origin.process.split(" pid=")[0])
        and not (one.origin.process.startswith("kernel") and one.kind == "log")
        for one in reading.observations
        if one.kind in ("log", "exception", "dead", "exit")
    )


_REFUSED = {
    kinds.PAGE: _prints_nothing,
    kinds.DATA: _tells_no_progress,
    kinds.CODE: _always,
    kinds.SCRIPT: _of_no_program,
    kinds.ACCESS: _always,
    kinds.CHAT: _raises_nothing,
    kinds.OTHER: _of_no_word,
    kinds.JOURNAL: _of_services,
    kinds.TABLE: _of_no_program,
    kinds.DOCUMENT: _tells_nothing,
}
"""When a file of a kind really is refused."""
