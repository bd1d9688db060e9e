"""The page at `/`: ask about photographs in a browser, over the engine that the routes use (Gradio)."""
