"""Stop sequences that an upstream was not told: the gateway ends the text itself."""

from gateway.protocol.events import Event, TextDelta


class StopCutter:
    """Ends a choice's text before that of the given sequences which is complete first, as a server would."""

    def __init__(self, stops: tuple[str, ...], choice: int) -> None:
        self._stops = stops
        self._choice = choice
        self._held = ""
        self.is_cut = False

    def feed(self, text: str) -> list[Event]:
        if self.is_cut:
            return []
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.is_cut = True
            self._held = ""
            start = min(ends)[1]
            return [TextDelta(text[:start], choice=self._choice)] if start else []
        longest = max(map(len, self._stops))
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                break
        else:
            start = len(text)
        text, self._held = text[:start], text[start:]
        return [TextDelta(text, choice=self._choice)] if text else []

    def finish(self) -> list[Event]:
        held, self._held = self._held, ""
        return [TextDelta(held, choice=self._choice)] if held else []
