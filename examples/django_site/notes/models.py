"""What is stored."""

from __future__ import annotations

from django.db import models


class Note(models.Model):
    """A line that somebody left."""

    text = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text
