"""The page."""

from __future__ import annotations

import datetime

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

ITEMS = [
    {
        "name": f"rope no. {number} <new>",
        "price": number * 1.19 + 0.5,
        "since": datetime.date(2020, 1, 1) + datetime.timedelta(days=number),
        "tags": ["red", "long"][: number % 3],
    }
    for number in range(1, 31)
]


def catalogue(request: HttpRequest) -> HttpResponse:
    """Thirty rows, formatted and escaped."""
    return render(request, "catalogue.html", {"items": ITEMS, "page": request.GET.get("page", "1")})
