"""What is kept."""

from django.db import models


class Task(models.Model):
    title = models.CharField(max_length=200)
    made_by = models.GenericIPAddressField(null=True)

    class Meta:
        app_label = "tasks"
        ordering = ["id"]
