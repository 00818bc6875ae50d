"""The same tail behind other servers, as people write it today: what the gateway is compared with.

    python experiments/load/peers.py grpc|grpc-aio|fastapi|fastapi-loop|aiohttp|triton BUNDLE PORT
    python experiments/load/peers.py bare BUNDLE

Each takes the boundary's bytes and gives back the result's, from the interpreter that the gateway
uses. They run in one process, as their own documentation shows; a lock or the event loop keeps the
interpreter to one request at a time, because it is not thread-safe. A server prints `ready` and
serves until it is ended; `bare` runs the stage in a loop for as many seconds as each line of its
input says, and prints how often.

    pip install grpcio fastapi 'uvicorn[standard]' aiohttp

Triton is `nvidia-pytriton`, which needs numpy below 2: give it an environment of its own with this
project's dependencies.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from partitioner import bundle, kernels
from partitioner.bundle import Bundle
from partitioner.chain import Stage

HOST = "127.0.0.1"
GRPC_PATH = "/tinysplit.Tail/Infer"
HTTP_PATH = "/infer"
TRITON_MODEL = "tail"
TRITON_PATH = f"/v2/models/{TRITON_MODEL}/infer"
WARM_RUNS = 50
Infer = Callable[[bytes], bytes]


def last_stage(opened: Bundle) -> Stage:
    """The tail, on the exact kernels."""
    number = len(opened.stages) - 1
    return Stage(opened.manifest, number, opened.stages[number], kernels.exact())


def engine(opened: Bundle) -> Infer:
    """Boundary in, result out; not thread-safe."""
    stage = last_stage(opened)
    lengths = [tensor.bytes for tensor in stage.received]

    def infer(boundary: bytes) -> bytes:
        done = stage.run(stage.decode(boundary, lengths))
        return b"".join(tensor.tobytes() for tensor in done.tensors)

    return infer


def bare(opened: Bundle) -> None:
    """The stage by itself, its golden boundaries in turn, as long as each line of input says."""
    stage = last_stage(opened)
    golden = opened.selftest()
    last = len(opened.manifest.boundaries) - 1
    tensors = [golden[f"boundary_{last}_{i}"] for i in range(len(stage.received))]
    inputs = [tuple(tensor[i] for tensor in tensors) for i in range(len(tensors[0]))]
    wanted = [golden["output_0"][i].tobytes() for i in range(len(inputs))]
    run, many = stage.run, len(inputs)
    for number in range(WARM_RUNS):
        run(inputs[number % many])
    _ready()
    for line in sys.stdin:
        count, wrong, seconds = 0, 0, float(line)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            at = count % many
            wrong += run(inputs[at]).tensors[0].tobytes() != wanted[at]
            count += 1
        took = time.perf_counter() - began
        print(json.dumps({"count": count, "wrong": wrong, "per_second": count / took}), flush=True)


def _ready() -> None:
    """Loaded; whoever waits for the port to answer need not wait long."""
    print("ready", flush=True)


def _identity(data: bytes) -> bytes:
    return data


def serve_grpc(opened: Bundle, port: int) -> None:
    """grpcio's synchronous server with its thread pool; raw bytes instead of protobuf."""
    import grpc

    infer, lock = engine(opened), threading.Lock()

    def handle(request: bytes, _context: Any) -> bytes:
        with lock:
            return infer(request)

    server = grpc.server(ThreadPoolExecutor(max_workers=10))
    _, service, method = GRPC_PATH.split("/")
    handler = grpc.unary_unary_rpc_method_handler(handle, _identity, _identity)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    _ready()
    server.wait_for_termination()


def serve_grpc_aio(opened: Bundle, port: int) -> None:
    """grpcio's asyncio server; the interpreter runs in the loop, which stands still meanwhile."""
    import grpc

    infer = engine(opened)

    async def handle(request: bytes, _context: Any) -> bytes:
        return infer(request)

    async def serve() -> None:
        server = grpc.aio.server()
        _, service, method = GRPC_PATH.split("/")
        handler = grpc.unary_unary_rpc_method_handler(handle, _identity, _identity)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        server.add_insecure_port(f"{HOST}:{port}")
        await server.start()
        _ready()
        await server.wait_for_termination()

    asyncio.run(serve())


def serve_fastapi(opened: Bundle, port: int) -> None:
    """FastAPI on uvicorn with uvloop and httptools, as its documentation says for what blocks: a
    plain function, which FastAPI runs in its thread pool."""
    import uvicorn
    from fastapi import Body, FastAPI, Response

    infer, lock = engine(opened), threading.Lock()
    app = FastAPI()

    def handle(body: bytes = Body(media_type="application/octet-stream")) -> Response:
        with lock:
            return Response(infer(body), media_type="application/octet-stream")

    handle.__annotations__ = {"body": bytes, "return": Response}
    app.post(HTTP_PATH)(handle)
    _ready()
    uvicorn.run(app, host=HOST, port=port, log_level="error", access_log=False)


def serve_fastapi_loop(opened: Bundle, port: int) -> None:
    """FastAPI likewise, with the interpreter in the loop, which stands still meanwhile."""
    import uvicorn
    from fastapi import FastAPI, Request, Response

    infer = engine(opened)
    app = FastAPI()

    async def handle(request: Request) -> Response:
        return Response(infer(await request.body()), media_type="application/octet-stream")

    handle.__annotations__ = {"request": Request, "return": Response}
    app.post(HTTP_PATH)(handle)
    _ready()
    uvicorn.run(app, host=HOST, port=port, log_level="error", access_log=False)


def serve_aiohttp(opened: Bundle, port: int) -> None:
    """aiohttp's server; the interpreter runs in the loop, which stands still meanwhile."""
    from aiohttp import web

    infer = engine(opened)

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=infer(await request.read()))

    app = web.Application()
    app.router.add_post(HTTP_PATH, handle)
    _ready()
    web.run_app(app, host=HOST, port=port, print=None, access_log=None)


def serve_triton(opened: Bundle, port: int) -> None:
    """Triton Inference Server by pytriton, which calls a Python function; binary tensors."""
    import numpy as np
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    infer = engine(opened)

    def handle(boundary: Any) -> dict[str, Any]:
        return {"result": np.frombuffer(infer(boundary.tobytes()), np.int8)}

    stage = opened.manifest
    sent = sum(tensor.bytes for tensor in stage.boundaries[-1].tensors)
    results = sum(tensor.bytes for tensor in stage.outputs)
    config = TritonConfig(
        http_address=HOST, http_port=port, allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=TRITON_MODEL,
            infer_func=_single(handle),
            inputs=[Tensor(name="boundary", dtype=np.int8, shape=(sent,))],
            outputs=[Tensor(name="result", dtype=np.int8, shape=(results,))],
            config=ModelConfig(batching=False),
        )
        triton.run()
        _ready()
        threading.Event().wait()


def _single(handle: Callable[[Any], dict[str, Any]]) -> Callable[[list[Any]], list[Any]]:
    """pytriton's undecorated form: requests in, answers out."""
    return lambda requests: [handle(request["boundary"]) for request in requests]


SERVERS: dict[str, Callable[[Bundle, int], None]] = {
    "grpc": serve_grpc,
    "grpc-aio": serve_grpc_aio,
    "fastapi": serve_fastapi,
    "fastapi-loop": serve_fastapi_loop,
    "aiohttp": serve_aiohttp,
    "triton": serve_triton,
}


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["bare"] and len(words) == 2:
        bare(bundle.read(Path(words[1])))
    elif len(words) == 3 and words[0] in SERVERS:
        SERVERS[words[0]](bundle.read(Path(words[1])), int(words[2]))
    else:
        raise SystemExit(
            f"usage: peers.py {'|'.join(SERVERS)} BUNDLE PORT, or peers.py bare BUNDLE"
        )


if __name__ == "__main__":
    main()
