//! Dates of Release files ("Fri, 20 Nov 2026 02:11:10 UTC", RFC 1123 as in Debian's repository format).

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Seconds since 1970 of such a date; the weekday is not checked, the zone must be UTC.
pub fn parse(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(',')?;
    let mut words = rest.split_ascii_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let month_name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == month_name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let zone = words.next()?;
    let valid = matches!(zone, "UTC" | "GMT" | "Z" | "+0000")
        && words.next().is_none()
        && clock.next().is_none()
        && (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    valid.then(|| ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// The date of so many seconds since 1970, zone UTC.
pub fn format(epoch: u64) -> String {
    let days = epoch / 86400;
    let (year, month, day) = civil_from_days(days);
    let second = epoch % 86400;
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} UTC",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The same as ISO 8601 writes it, "2026-11-20T02:11:10Z".
pub fn format_iso(epoch: u64) -> String {
    let (year, month, day) = civil_from_days(epoch / 86400);
    let second = epoch % 86400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, counted in years that begin in March
/// so that the leap day is the last one (the usual "days from civil" computation).
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (text, epoch) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Fri, 20 Nov 2026 02:11:10 UTC", 1_795_140_670),
            ("Thu, 29 Feb 2024 23:59:59 UTC", 1_709_251_199),
            ("Tue, 01 Mar 2072 12:00:00 UTC", 3_224_059_200),
        ] {
            assert_eq!(parse(text), Some(epoch), "{text}");
            assert_eq!(format(epoch), text);
        }
        assert_eq!(format_iso(1_709_251_199), "2024-02-29T23:59:59Z");
        for bad in [
            "",
            "Fri 20 Nov 2026",
            "Fri, 20 Nov 2026 02:11:10 CET",
            "Fri, 20 Foo 2026 02:11:10 UTC",
            "Fri, 0 Jan 1970 00:00:00 UTC",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn format_and_parse_are_inverse(epoch in 0u64..200_000_000_000) {
            proptest::prop_assert_eq!(parse(&format(epoch)), Some(epoch));
        }
    }
}
