"""What the tests of all pages look at."""


def charts_of(test):
    """Keys of the charts on a page, and what each says to who cannot see it."""
    return {
        "chart_" + element.proto.id.split("-chart_")[-1]: element.proto
        for element in test.get("plotly_chart")
        if element.proto.alt
    }
