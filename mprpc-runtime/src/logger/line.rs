//! One line of a log file: `HH:MM:SS.mmm LEVEL target: message`, whatever the message holds.

use std::{
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use log::Record;

/// A text that takes no more than [`MAX_TEXT`], so that a huge message costs its caller no more.
struct Limited(String);

impl Write for Limited {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let mut fits = part.len().min(MAX_TEXT - self.0.len());
        while !part.is_char_boundary(fits) {
            fits -= 1;
        }
        self.0.push_str(&part[..fits]);
        if fits < part.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// `LEVEL target: message`, not yet escaped, cut at 8 KiB.
pub(super) fn format(record: &Record<'_>) -> String {
    let mut text = Limited(String::with_capacity(120));
    let (level, target) = (record.level(), record.target());
    if write!(text, "{level} {target}: {}", record.args()).is_err() {
        text.0.push_str(CUT_MARK);
    }
    text.0
}

/// Days since 1970 and milliseconds of the day, UTC; times before 1970 are 1970.
pub(super) fn day_and_ms(time: SystemTime) -> (u64, u64) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() / 86_400, since.as_millis() as u64 % 86_400_000)
}

/// Adds one line with its end. Control characters, line separators and what turns the direction of
/// writing are escaped: a message cannot pretend to be two, nor command a terminal.
pub(super) fn push(out: &mut String, ms: u64, text: &str) {
    let (s, ms) = (ms / 1000, ms % 1000);
    let _ = write!(out, "{:02}:{:02}:{:02}.{ms:03} ", s / 3600, s / 60 % 60, s % 60);
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('\n');
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
pub(super) fn date(days: u64) -> (u64, u64, u64) {
    // Years are counted from 1 March of year 0: the leap day is their last, and 400 of them are
    // 146,097 days. Five months from March on are always 153 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let year = era * 400 + year + u64::from(month > 9);
    (year, (month + 2) % 12 + 1, day - (153 * month + 2) / 5 + 1)
}

const MAX_TEXT: usize = 8 << 10;
const CUT_MARK: &str = " [cut]";

#[cfg(test)]
mod tests {
    use super::*;

    /// Every day of 600 years against a calendar that counts one day at a time.
    #[test]
    fn dates_agree_with_counting() {
        let (mut y, mut m, mut d) = (1970, 1, 1);
        for days in 0..600 * 366 {
            assert_eq!(date(days), (y, m, d));
            let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
            let length = match m {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            d += 1;
            if d > length {
                (m, d) = (m + 1, 1);
            }
            if m > 12 {
                (y, m) = (y + 1, 1);
            }
        }
    }
}
