"""An object store that fails in every way that stores do: asked again, and told apart."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fault_proxy import Fault, FaultProxy, Request, chaos

from vega3d.pipeline import remote, transient
from vega3d.pipeline.errors import StoreError, TransientError, UsageError
from vega3d.pipeline.passwords import user_and_password
from vega3d.pipeline.remote import RefusedError, Remote
from vega3d.pipeline.scenes.byte_ranges import list_names, open_file, read_all, read_range
from vega3d.pipeline.store.objects import Objects, open_objects

DATA = bytes(range(256)) * 200


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stand in front of the S3 server; asked again within a second."""
    with FaultProxy(os.environ["AWS_ENDPOINT"]) as standing:
        monkeypatch.setenv("AWS_ENDPOINT", standing.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", standing.url)
        monkeypatch.setattr(transient, "PATIENCE_S", 1.0)
        monkeypatch.setattr(transient, "FIRST_PAUSE_S", 0.01)
        monkeypatch.setattr(transient, "LONGEST_PAUSE_S", 0.05)
        remote._connected.cache_clear()
        yield standing
    remote._connected.cache_clear()


@pytest.fixture
def objects(proxy: FaultProxy, bucket: str, request: pytest.FixtureRequest) -> Objects:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return open_objects(f"{bucket}/{name}")


def first(count: int, fault: Fault, method: str = "") -> Callable[[Request], Fault | None]:
    """Fail the first `count` requests of a method, and no more."""
    left = [count]

    def faults(request: Request) -> Fault | None:
        if method in ("", request.method) and left[0] > 0:
            left[0] -= 1
            return fault
        return None

    return faults


PASSING = {
    "500": Fault(status=500),
    "503": Fault(status=503),
    "429": Fault(status=429),
    "dropped": Fault(drop=True),
    "carried out, told 500": Fault(status=500, carried_out=True),
    "carried out, dropped": Fault(drop=True, carried_out=True),
}


@pytest.mark.one_quick
@pytest.mark.parametrize("name", PASSING)
def test_every_operation_outlives_two_faults(
    proxy: FaultProxy, objects: Objects, name: str
) -> None:
    def failing() -> None:
        proxy.fault = first(2, PASSING[name])

    failing()
    assert objects.create("a/k", [DATA])  # ours, also where the first answer was lost
    failing()
    assert not objects.create("a/k", [b"other"])
    failing()
    assert objects.read("a/k") == DATA
    failing()
    objects.replace("a/l", [b"1", b"2"])
    failing()
    assert list(objects.keys("a")) == ["a/k", "a/l"]
    failing()
    assert objects.exists("a/l")
    with pytest.raises(FileNotFoundError):
        objects.read("a/m")
    assert objects.read("a/l") == b"12"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_bodies_are_asked_for_again(proxy: FaultProxy, objects: Objects, share: float) -> None:
    objects.create("k", [DATA])
    for ask, wanted in (
        (lambda: objects.read("k"), DATA),
        (lambda: list(objects.keys("")), ["k"]),
        (lambda: read_range(f"{objects.url}/k", 10, 5000), DATA[10:5010]),
        (lambda: open_file(f"{objects.url}/k").read(300), DATA[:300]),
        (lambda: list_names(f"{objects.url}/*"), [f"{objects.url}/k"]),
    ):
        proxy.fault = first(2, Fault(cut=share), "GET")
        before = proxy.count("GET")
        assert ask() == wanted
        assert proxy.count("GET") == before + 3


def test_a_create_that_was_carried_out_and_not_answered_is_ours(
    proxy: FaultProxy, objects: Objects
) -> None:
    proxy.fault = first(1, Fault(drop=True, carried_out=True), "PUT")
    assert objects.create("k", [DATA])
    assert proxy.count("PUT") == 2
    # Not ours where another one's bytes are there.
    proxy.fault = first(1, Fault(drop=True), "PUT")
    assert not objects.create("k", [b"other"])
    assert objects.read("k") == DATA


@pytest.mark.slow
def test_409_is_a_conflict_and_412_is_taken(proxy: FaultProxy, objects: Objects) -> None:
    proxy.fault = first(3, Fault(status=409), "PUT")
    assert objects.create("k", [DATA])  # nothing was there: the conflict passes
    proxy.fault = first(3, Fault(status=409), "PUT")
    before = proxy.count("PUT")
    assert not objects.create("k", [b"other"])  # a server that says 409 for 'exists'
    assert proxy.count("PUT") == before + 1
    proxy.fault = first(10_000, Fault(status=409), "PUT")
    with pytest.raises(TransientError, match="/l: another writer is at work"):
        objects.create("l", [DATA])


@pytest.mark.slow
def test_a_slow_body_has_the_time_that_its_size_needs(
    proxy: FaultProxy, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 MB at 100 kB/s with limits of 30 s and 50 kB/s, all forty times faster."""
    monkeypatch.setattr(remote, "SILENCE_S", 30.0 / 40)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_S", 50_000 * 40)
    data = os.urandom(4_000_000)
    proxy.fault = lambda _request: Fault(bytes_per_s=100_000 * 40)
    start = time.monotonic()
    assert objects.create("k", [data])
    assert time.monotonic() - start > remote.SILENCE_S  # longer than a small request may take
    assert objects.read("k") == data
    assert (proxy.count("PUT"), proxy.count("GET")) == (1, 1)


@pytest.mark.slow
def test_a_server_that_falls_silent_is_given_up_and_asked_again(
    proxy: FaultProxy, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.3)
    for method in ("PUT", "GET"):
        proxy.fault = first(1, Fault(wait_s=2.0), method)
        assert objects.create("k", [DATA]) == (method == "PUT")
        assert objects.read("k") == DATA


def test_a_body_that_trickles_is_given_up(
    proxy: FaultProxy, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DATA * 10
    objects.create("k", [data])
    monkeypatch.setattr(remote, "SILENCE_S", 0.4)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_S", 10_000_000)
    monkeypatch.setattr(remote, "_PIECE_BYTES", 1)
    proxy.fault = first(1, Fault(bytes_per_s=100_000), "GET")
    start = time.monotonic()
    assert objects.read("k") == data
    assert time.monotonic() - start < 3


@pytest.mark.slow
def test_an_outage_that_lasts_is_told_with_place_cause_and_attempts(
    proxy: FaultProxy, objects: Objects
) -> None:
    proxy.fault = lambda _request: Fault(status=503)
    told = r"s3://stores/\w+/a/k: cannot create: the server answers 503 Fault503 \(\d+ attempts"
    with pytest.raises(TransientError, match=told):
        objects.create("a/k", [b"1"])
    proxy.fault = lambda _request: Fault(drop=True)
    for ask in (lambda: objects.read("k"), lambda: list(objects.keys("a")),
                lambda: objects.exists("k")):  # fmt: skip
        with pytest.raises(TransientError, match=r"cannot [a-z ]+: the server is not reached"):
            ask()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(status=403), "does not allow it .403 Fault403.; look at the rights and the AWS_"),
        (Fault(status=401), "does not allow it .401"),
        (Fault(status=404), "knows no such place .404.; look at the URL and at AWS_ENDPOINT"),
        (Fault(status=400), "the server answers 400 Fault400; look at the bucket's name and the"),
        (Fault(status=501), "the server answers 501"),
        (Fault(status=301), "lies in another region; set AWS_REGION"),
    ],
)
def test_what_does_not_pass_is_told_at_once_with_key_and_next_step(
    proxy: FaultProxy, objects: Objects, fault: Fault, told: str
) -> None:
    proxy.fault = lambda _request: fault
    with pytest.raises(StoreError, match=rf"s3://stores/\w+/a/k: cannot create: .*{told}"):
        objects.create("a/k", [b"1"])
    assert len(proxy.seen) == 1


def test_a_bucket_that_is_not_there_and_keys_that_are_missing_are_named(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ask in (lambda o: o.create("k", [b""]), lambda o: list(o.keys(""))):
        with pytest.raises(StoreError, match="there is no such bucket; create it"):
            ask(open_objects("s3://nobody-made-this/x"))
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    remote._connected.cache_clear()
    with pytest.raises(StoreError, match="AWS_ENDPOINT is no https; set AWS_ALLOW_HTTP=true"):
        open_objects("s3://stores/x").read("k")


def test_the_server_is_asked_to_compare_checksums(proxy: FaultProxy, objects: Objects) -> None:
    objects.create("k", [DATA])
    put = next(request for request, _ in proxy.seen if request.method == "PUT")
    assert "x-amz-checksum-sha256" in {name.lower() for name in put.headers}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_under_chaos_all_objects_end_as_they_were_meant(
    proxy: FaultProxy, objects: Objects, seed: int
) -> None:
    proxy.fault = chaos(seed, 0.4)
    for number in range(12):
        assert objects.create(f"o/{number:02d}", [DATA[number:]])
        objects.replace(f"r/{number:02d}", [DATA[:number]])
    assert list(objects.keys("o")) == [f"o/{number:02d}" for number in range(12)]
    for number in range(12):
        assert objects.read(f"o/{number:02d}") == DATA[number:]
        assert objects.read(f"r/{number:02d}") == DATA[:number]
    proxy.fault = lambda _request: None
    assert len(list(objects.keys(""))) == 24


@pytest.mark.slow
def test_a_web_servers_password_is_sent_and_never_told(proxy: FaultProxy, bucket: str) -> None:
    place = proxy.url.replace("http://", "http://me:p4ss%21@") + "/stores"
    url = f"{place}/x.tar"
    proxy.fault = lambda _request: Fault(status=403)
    with pytest.raises(RefusedError, match="look at the URL's user and password") as refused:
        read_all(url)
    assert "p4ss" not in str(refused.value)
    sent = proxy.seen[-1][0].headers
    assert sent["authorization"] == "Basic bWU6cDRzcyE="  # me:p4ss!
    proxy.fault = lambda _request: Fault(status=502)
    with pytest.raises(TransientError) as away:
        Remote(place).read("x.tar")
    assert "p4ss" not in str(away.value)


@pytest.mark.slow
def test_a_web_servers_password_may_stand_in_netrc(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no list of processes shows it."""
    kept = tmp_path / "netrc"
    kept.write_text("machine 127.0.0.1 login me password p4ss!\ndefault login a password b\n")
    kept.chmod(0o600)
    monkeypatch.setenv("NETRC", str(kept))
    proxy.fault = lambda _request: Fault(status=403)
    with pytest.raises(RefusedError, match="look at the URL's user and password"):
        read_all(f"{proxy.url}/stores/y.tar")
    assert proxy.seen[-1][0].headers["authorization"] == "Basic bWU6cDRzcyE="
    assert user_and_password(urlsplit("http://elsewhere.invalid/x")) is None
    kept.chmod(0o644)
    with pytest.raises(UsageError, match="others may read the passwords in it; chmod 600"):
        user_and_password(urlsplit("http://127.0.0.1/x"))
    kept.write_text("machine")
    with pytest.raises(UsageError, match="is no netrc file"):
        user_and_password(urlsplit("http://127.0.0.1/x"))
