"""What is answered."""

from __future__ import annotations

import os

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from .models import Note


def index(request: HttpRequest) -> HttpResponse:
    """The page."""
    return render(request, "notes/index.html", {"notes": Note.objects.order_by("-at")[:20]})


def notes(request: HttpRequest) -> HttpResponse:
    """GET lists, POST adds the text of the body."""
    if request.method == "POST":
        note = Note.objects.create(text=request.body.decode()[:200])
        return JsonResponse({"id": note.pk, "text": note.text}, status=201)
    return JsonResponse({"notes": list(Note.objects.order_by("id").values("id", "text"))})


def healthz(request: HttpRequest) -> HttpResponse:
    """Does the database answer?"""
    return JsonResponse({"notes": Note.objects.count()})


def whoami(request: HttpRequest) -> HttpResponse:
    """Who answers, and whom it sees."""
    return JsonResponse(
        {"pid": os.getpid(), "client": request.META["REMOTE_ADDR"], "url": request.build_absolute_uri()}
    )
