"""A client of the chat: what it says goes to everybody in its room, on either instance."""

import os

from channels.generic.websocket import AsyncJsonWebsocketConsumer


class Chat(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json(
            {"from": "server", "text": "welcome", "instance": os.environ.get("INSTANCE", "chat"),
             "you": self.scope["client"][0]}
        )

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive_json(self, content):
        said = {"type": "said", "from": self.scope["client"][0], "text": str(content.get("text", ""))}
        await self.channel_layer.group_send(self.room, said)

    async def said(self, event):
        await self.send_json({"from": event["from"], "text": event["text"]})
