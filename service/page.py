"""The page at `/`: ask about a photograph in a browser, over the same /generate that programs use."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"), media_type="text/html")
