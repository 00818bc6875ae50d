"""One acceptor that is several nodes: whom a HELLO is for (SPEC 2.1, 2.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from host.link.errors import ErrorCode
from host.link.frames import Hello
from host.link.session import Node, Role, choose_node, judge_hello

BUNDLES = [bytes([n]) * 32 for n in range(1, 4)]
NODES = [
    Node.tail(BUNDLES[0], 2),
    Node.tail(BUNDLES[1], 3),
    Node.tail(BUNDLES[2], 2, codecs=3),
    Node(Role.RELAY, 1, 3, BUNDLES[1]),
]


def hello(role: int, stage: int, count: int, bundle: bytes, version: int = 1) -> Hello:
    return Hello(
        initiator_nonce=5,
        role=role,
        stage=stage,
        stage_count=count,
        bundle=bundle,
        version_max=version,
        version_min=version,
    )


@given(
    st.lists(st.sampled_from(NODES), min_size=1, max_size=4),
    st.builds(
        hello,
        st.sampled_from([0, 1, 2, 3]),
        st.sampled_from([0, 1, 2, 255]),
        st.sampled_from([0, 2, 3]),
        st.sampled_from([*BUNDLES, bytes(32), b"\xff" * 32]),
        st.sampled_from([0, 1, 2]),
    ),
)
def test_it_is_accepted_if_any_of_them_would(nodes: list[Node], asked: Hello) -> None:
    node, verdict = choose_node(nodes, asked)
    assert node in nodes
    assert verdict == judge_hello(node, asked)
    assert (verdict == 0) == any(judge_hello(one, asked) == 0 for one in nodes)


def test_a_known_stage_of_an_unknown_bundle_is_a_bundle_mismatch() -> None:
    asked = hello(Role.HEAD, 0, 2, b"\xff" * 32)
    assert choose_node(NODES, asked)[1] == ErrorCode.BUNDLE_MISMATCH
    assert choose_node(NODES[1:2], asked)[1] == ErrorCode.STAGE_MISMATCH


def test_a_host_finds_the_node_of_its_bundle() -> None:
    for bundle, node in zip(BUNDLES, NODES[:3], strict=True):
        assert choose_node(NODES, hello(Role.HOST, 255, 0, bundle)) == (node, 0)


def test_whoever_looks_around_is_told_of_the_first() -> None:
    node, verdict = choose_node(NODES, hello(Role.HOST, 255, 0, bytes(32), version=0))
    assert (node, verdict) == (NODES[0], ErrorCode.VERSION_OLDER)
