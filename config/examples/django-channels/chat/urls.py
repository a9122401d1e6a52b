"""What is answered over HTTP: whether this instance lives, and the page."""

import os

from django.http import HttpResponse, JsonResponse
from django.urls import path

PAGE = """<!doctype html><title>Chat</title><ul id="said"></ul><input id="say" autofocus>
<script>
const socket = new WebSocket(`wss://${location.host}/ws/chat/lobby/`);
socket.onmessage = event => {
  const item = document.createElement("li");
  const said = JSON.parse(event.data);
  item.textContent = `${said.from}: ${said.text}`;
  document.getElementById("said").append(item);
};
document.getElementById("say").onchange = event => {
  socket.send(JSON.stringify({text: event.target.value}));
  event.target.value = "";
};
</script>
"""


def healthz(request):
    return JsonResponse({"status": "ok", "instance": os.environ.get("INSTANCE", "chat")})


def page(request):
    return HttpResponse(PAGE)


urlpatterns = [path("healthz", healthz), path("", page)]
