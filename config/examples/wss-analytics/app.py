"""Analytics: numbers by REST, and as they come over WebSockets."""

import asyncio
import os
import random
import time

from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect

INSTANCE = os.environ.get("INSTANCE", "api")
SERIES = ["orders", "visits", "revenue"]

app = FastAPI(docs_url=None, redoc_url=None)


@app.middleware("http")
async def security_headers(request: Request, call_next):
    response = await call_next(request)
    response.headers["Strict-Transport-Security"] = "max-age=63072000"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


@app.get("/healthz")
async def healthz():
    return {"status": "ok"}


@app.get("/api/v1/series")
async def series():
    return {"series": SERIES, "instance": INSTANCE}


@app.get("/api/v1/series/{name}")
async def latest(name: str):
    if name not in SERIES:
        raise HTTPException(status_code=404, detail="no such series")
    return {"series": name, "time": time.time(), "value": random.random()}


@app.websocket("/ws/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


@app.websocket("/ws/series/{name}")
async def subscribe(socket: WebSocket, name: str, interval: float = 1.0):
    """A value every `interval` seconds, numbered, until the client has had enough."""
    await socket.accept()
    if name not in SERIES:
        return await socket.close(code=4404, reason="no such series")
    number = 0
    try:
        while True:
            number += 1
            value = {"series": name, "number": number, "value": random.random(), "instance": INSTANCE}
            await socket.send_json(value)
            await asyncio.sleep(max(interval, 0.01))
    except WebSocketDisconnect:
        pass
