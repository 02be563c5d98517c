            f"{summary.unaccepted} images kept though all attempts were rejected: their `accepted` is false"
        )
    _say(f"contact sheet: {summary.sheet}")
