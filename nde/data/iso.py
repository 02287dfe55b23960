"""Dates and timestamps as ISO 8601 writes them."""

import re
from datetime import datetime, timedelta

import polars as pl

ISO = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"\s?(?:(Z|z|UTC)|([+-])(\d{2}):?(\d{2})?)?$"
)


def parse_iso(cells: pl.Series) -> pl.Series:
    """Text as dates, if all are dates, or as timestamps, of UTC if they have a zone; null for what is neither.

    Timestamps are to the microsecond, or to the nanosecond if one has more than six decimals. Where some have a zone
    and others none, those unlike the first are null.
    """
    # A date's optional time and its optional zone: `2024-03-01`, `2024-03-01T12:30`, `2024-03-01 12:30:00.25+02:00`.
    parts = cells.str.extract_groups(ISO).struct.unnest()
    parts.columns = ["date", "hour", "minute", "second", "fraction", "utc", "sign", "zone_hour", "zone_minute"]
    date = parts["date"].str.to_date("%Y-%m-%d", strict=False)
    if parts["hour"].null_count() == len(cells) and parts["utc"].null_count() == parts["sign"].null_count() == len(
        cells
    ):
        return date
    nano = bool((parts["fraction"].str.len_chars() > 6).any())
    number = {name: parts[name].cast(pl.Int64).fill_null(0) for name in parts.columns[1:4] + parts.columns[7:]}
    in_range = (number["hour"] < 24) & (number["minute"] < 60) & (number["second"] < 60)
    in_range &= (number["zone_hour"] < 24) & (number["zone_minute"] < 60)
    zoned = parts["utc"].is_not_null() | parts["sign"].is_not_null()
    seconds = number["hour"] * 3600 + number["minute"] * 60 + number["second"]
    offset = number["zone_hour"] * 3600 + number["zone_minute"] * 60
    seconds = seconds - offset * (1 - 2 * (parts["sign"] == "-").fill_null(False).cast(pl.Int64))
    per_second, digits = (10**9, 9) if nano else (10**6, 6)
    fraction = parts["fraction"].fill_null("0").str.pad_end(digits, "0").cast(pl.Int64)
    ticks = (date.cast(pl.Int64) * 86_400 + seconds) * per_second + fraction
    good = in_range & date.is_not_null() & (zoned == zoned[0])
    if nano:  # 64 bits of nanoseconds hold the years 1678 to 2261 only
        good &= date.dt.year().is_between(1678, 2261).fill_null(False)
    ticks = pl.select(pl.when(good).then(ticks)).to_series()
    return ticks.cast(pl.Datetime("ns" if nano else "us", "UTC" if zoned[0] else None))


def write_iso(moment: datetime, nanoseconds: int, like: str) -> str:
    """A moment, in UTC if zoned, and the nanoseconds past it, written as the timestamp `like` is, with its zone."""
    found = re.match(ISO.replace(r"\d", "[0-9]"), like.strip())
    assert found is not None
    _, hour, _, second, fraction, utc, sign, zone_hour, zone_minute = found.groups()
    moment = moment.replace(tzinfo=None)
    zone = like.strip()[found.start(6) :] if utc else ""
    if sign:
        offset = timedelta(hours=int(zone_hour), minutes=int(zone_minute or 0))
        moment += offset if sign == "+" else -offset
        zone = like.strip()[found.start(7) :]
    if hour is None and not (moment.hour or moment.minute or moment.second or moment.microsecond or nanoseconds):
        return f"{moment:%Y-%m-%d}{zone}"
    text = f"{moment:%Y-%m-%d}{' ' if hour and like.strip()[10] == ' ' else 'T'}{moment:%H:%M}"
    decimals = f"{moment.microsecond:06d}{nanoseconds:03d}"
    digits = max(len(fraction or ""), len(decimals.rstrip("0")))
    if second is not None or moment.second or digits:
        text += f":{moment:%S}" + (f".{decimals[:digits]}" if digits else "")
    return text + zone
