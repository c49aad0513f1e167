"""Model -> HTTP: OpenAI-compatible API and chat page. Needs the extra `serve`."""
