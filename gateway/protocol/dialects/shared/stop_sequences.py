"""Stop sequences that the upstream does not take: the gateway ends the text itself."""

from gateway.protocol.events import Event, TextDelta


class StopCutter:
    """Ends a choice's text before the first complete stop sequence, as a server does."""

    def __init__(self, stops: tuple[str, ...], choice: int) -> None:
        self._stops = stops
        self._choice = choice
        self._tail = ""
        self.is_cut = False

    def feed(self, text: str) -> list[Event]:
        if self.is_cut:
            return []
        text = self._tail + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.is_cut = True
            self._tail = ""
            start = min(ends)[1]
            return [TextDelta(text[:start], choice=self._choice)] if start else []
        longest = max(map(len, self._stops))
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                break
        else:
            start = len(text)
        text, self._tail = text[:start], text[start:]
        return [TextDelta(text, choice=self._choice)] if text else []

    def finish(self) -> list[Event]:
        tail, self._tail = self._tail, ""
        return [TextDelta(tail, choice=self._choice)] if tail else []
