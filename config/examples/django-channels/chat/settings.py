"""A chat without a database: what is said is passed on by Redis, and kept nowhere."""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "change me: this one is in the examples")
DEBUG = False
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "chat.example.com").split(",")
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
INSTALLED_APPS = ["daphne", "channels", "chat"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware"]
USE_TZ = True

# What nginx did before.
SECURE_HSTS_SECONDS = 63072000
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"

# Two instances, one chat: what one of them hears, both pass on.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # The layer waits for messages five seconds at a time. Since redis-py 8 a connection on which
        # nothing comes for five seconds is given up by default, and the WebSocket with it.
        "CONFIG": {
            "hosts": [
                {
                    "address": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
                    "socket_timeout": 20,
                }
            ]
        },
    }
}
