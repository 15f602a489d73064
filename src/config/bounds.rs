//! The section `[limits]`: what may be set, and what it may be set to.

use std::time::Duration;

use super::file::Limits;
use super::settings::LimitSettings;
use crate::limits;
use crate::units::parse_bytes;

pub(super) fn limits(file: &Limits) -> Result<LimitSettings, String> {
    let data_memory = match file.data_memory.as_deref() {
        None => limits::DATA_BYTES_MAX,
        Some(text) => memory(text)?,
    };
    // Every session has a floor of memory, and all floors together a quarter of the whole.
    let fit = data_memory / 4 / limits::CONNECTION_FLOOR;
    let newcomers = limits::UNAUTHENTICATED_MAX;
    let logins_in_progress = within(
        "logins_in_progress",
        file.logins_in_progress,
        newcomers,
        16,
        65_536,
    )?;
    let half = (logins_in_progress / 2).max(1);
    let of_one = limits::UNAUTHENTICATED_PER_ADDRESS.min(half);
    let connections = limits::SESSIONS_MAX.min(fit);
    let per_node = limits::SESSIONS_PER_TARGET;
    let layer = size("layer", file.layer.as_deref())?;
    let layer_warn = size("layer_warn", file.layer_warn.as_deref())?;
    if let (Some(most), Some(warn)) = (layer, layer_warn)
        && warn > most
    {
        return Err(
            "limits.layer_warn is above limits.layer; nothing would be told before the limit"
                .into(),
        );
    }
    let pin = match file.pin.as_deref() {
        Some("off") => 0,
        text => amount("limits.pin", text, limits::PIN_BYTES, 1 << 20)?,
    };
    let image_memory = match file.image_memory.as_deref() {
        None | Some("auto") => None,
        Some("off") => Some(0),
        text => Some(amount("limits.image_memory", text, 0, 1 << 20)?),
    };
    Ok(LimitSettings {
        pin,
        image_memory,
        layer,
        layer_warn,
        reserve: size("reserve", file.reserve.as_deref())?,
        // Firmware that was left behind, the system and its second path must fit.
        sessions_per_node: within(
            "sessions_per_node",
            file.sessions_per_node,
            per_node,
            4,
            1024,
        )?,
        connections: within("connections", file.connections, connections, 1, fit)?,
        data_memory,
        logins_in_progress,
        logins_per_address: within(
            "logins_per_address",
            file.logins_per_address,
            of_one,
            1,
            half,
        )?,
    })
}

fn within(
    key: &str,
    given: Option<usize>,
    default: usize,
    low: usize,
    high: usize,
) -> Result<usize, String> {
    let value = given.unwrap_or(default);
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "limits.{key} {value}: must be between {low} and {high}"
    ))
}

/// A number of bytes, or nothing said.
fn size(key: &str, given: Option<&str>) -> Result<Option<u64>, String> {
    let read = |text: &str| {
        parse_bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
            format!("limits.{key} `{text}`: must be like \"512M\", \"4G\" or \"1T\"")
        })
    };
    given.map(read).transpose()
}

/// `30d`, `12h`, or `off`.
pub(super) fn period(
    key: &str,
    text: Option<&str>,
    default: Duration,
) -> Result<Option<Duration>, String> {
    let Some(text) = text else {
        return Ok(Some(default));
    };
    if text == "off" {
        return Ok(None);
    }
    let number = |digits: &str, unit: u64| digits.trim().parse::<u64>().ok()?.checked_mul(unit);
    let seconds = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(digits), _) => number(digits, 86_400),
        (_, Some(digits)) => number(digits, 3_600),
        _ => None,
    };
    let year = 366 * 86_400;
    seconds
        .filter(|seconds| (3_600..=year).contains(seconds))
        .map(|seconds| Some(Duration::from_secs(seconds)))
        .ok_or_else(|| {
            format!("{key} `{text}`: must be like \"30d\" or \"12h\", at most a year, or \"off\"")
        })
}

/// `16M`, `1G`.
pub(super) fn amount(
    key: &str,
    text: Option<&str>,
    default: u64,
    least: u64,
) -> Result<u64, String> {
    let Some(text) = text else { return Ok(default) };
    let bytes = parse_bytes(text);
    bytes
        .filter(|bytes| (least..=1 << 40).contains(bytes))
        .ok_or_else(|| {
            format!(
                "{key} `{text}`: must be like \"16M\" or \"1G\", at least {}M",
                least >> 20
            )
        })
}

/// `512M`, `2G`.
fn memory(text: &str) -> Result<usize, String> {
    let number = |digits: &str, shift: u32| {
        let number: usize = digits.trim().parse().ok()?;
        number.checked_mul(1 << shift)
    };
    let bytes = match (text.strip_suffix('M'), text.strip_suffix('G')) {
        (Some(digits), _) => number(digits, 20),
        (_, Some(digits)) => number(digits, 30),
        _ => None,
    };
    let least = limits::DATA_BYTES_MIN;
    bytes
        .filter(|bytes| (least..=1 << 40).contains(bytes))
        .ok_or_else(|| {
            let least = least >> 20;
            format!(
                "limits.data_memory `{text}`: must be like \"512M\" or \"2G\", at least {least}M"
            )
        })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_smaller_memory_makes_room_for_fewer_connections() {
        let file = Limits {
            data_memory: Some("128M".into()),
            ..Limits::default()
        };
        let small = limits(&file).unwrap();
        assert_eq!(small.data_memory, 128 << 20);
        assert_eq!(small.connections, 2048);
        let more = Limits {
            connections: Some(2049),
            ..file
        };
        assert!(limits(&more).unwrap_err().contains("limits.connections"));
    }

    #[test]
    fn memory_is_read_with_its_unit() {
        assert_eq!(memory("2G"), Ok(2 << 30));
        assert_eq!(memory("512M"), Ok(512 << 20));
        for bad in ["", "1024", "-1G", "99999999999G", "1T", "G", "127M"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
