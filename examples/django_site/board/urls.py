"""Addresses of the site."""

from __future__ import annotations

from django.urls import path
from notes import views

urlpatterns = [
    path("", views.index),
    path("notes", views.notes),
    path("healthz", views.healthz),
    path("whoami", views.whoami),
]
