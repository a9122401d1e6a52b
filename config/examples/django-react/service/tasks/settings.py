"""Tasks, in SQLite, by REST."""

import os
from pathlib import Path

SECRET_KEY = os.environ.get("SECRET_KEY", "change me: this one is in the examples")
DEBUG = False
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "tasks.example.com").split(",")
ROOT_URLCONF = "tasks.urls"
WSGI_APPLICATION = "tasks.wsgi.application"
INSTALLED_APPS = ["rest_framework", "tasks"]
MIDDLEWARE = ["tasks.client.ClientAddress", "django.middleware.security.SecurityMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", Path(__file__).parent.parent / "tasks.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
REST_FRAMEWORK = {
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
}

# TLS ends at the gate; nginx says so.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
