//! The report of a boot as one HTML file: no script, nothing from elsewhere, and every text of the machine escaped.

use std::fmt::Write as _;

use serde_json::Value;

use crate::boot_timeline::Timeline;

/// The end of a serial log that is shown, in bytes.
const LOG_LIMIT: usize = 2 << 20;

/// A machine that was booted.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Where the time went.
    pub timeline: Timeline,
    /// Its part of the command's result.
    pub node: Value,
    /// What it wrote to its serial line.
    pub serial: Vec<u8>,
}

const STYLE: &str = "body{font:15px/1.4 sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2em .8em .2em 0;vertical-align:top}\
td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}td.b{width:60%}\
.bar{background:#3b6ea5;height:.9em}.dot{border-left:.4em solid #4a9a4a;height:.9em}\
pre{background:#f4f4f4;padding:.8em;overflow:auto;max-height:40em;font-size:12px}.bad{color:#b00020}";

/// The page: how the boot of an image ended, and each machine's times, services, checks and console.
pub fn page(image: &str, settings: &str, outcome: &str, machines: &[Machine]) -> String {
    let mut html = String::new();
    let title = format!("Boot of {}", escaped(image));
    let class = if outcome == "ready" {
        ""
    } else {
        " class=\"bad\""
    };
    // A browser takes nothing but the style from this page, whatever a machine wrote.
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n\
         <p>{}</p>\n<p{class}>{}</p>\n",
        escaped(settings),
        escaped(outcome).replace('\n', "<br>")
    );
    for machine in machines {
        add_machine(&mut html, machine);
    }
    html + "</body></html>\n"
}

fn add_machine(html: &mut String, machine: &Machine) {
    let _ = writeln!(html, "<h2>{}</h2>", escaped(&machine.name));
    add_timeline(html, &machine.timeline);
    let checks = machine.node["checks"].as_array();
    for check in checks.into_iter().flatten() {
        add_check(html, check);
    }
    let serial = &machine.serial[machine.serial.len().saturating_sub(LOG_LIMIT)..];
    let text: String = String::from_utf8_lossy(serial)
        .lines()
        .map(|line| images::qemu_watch::plain(line) + "\n")
        .collect();
    let _ = writeln!(
        html,
        "<h3>Serial console</h3>\n<pre>{}</pre>",
        escaped(&text)
    );
}

fn add_timeline(html: &mut String, timeline: &Timeline) {
    let last = timeline.phases.last();
    let total = last.map_or(0.0, |phase| phase.start + phase.seconds);
    let percent = |seconds: f64| match total > 0.0 {
        true => (100.0 * seconds / total).clamp(0.0, 100.0),
        false => 0.0,
    };
    html.push_str("<table><tr><th>Part<th>from<th>seconds<th></tr>\n");
    for phase in &timeline.phases {
        let _ = writeln!(
            html,
            "<tr><td>{}<td class=\"n\">{:.1}<td class=\"n\">{:.1}<td class=\"b\">\
             <div class=\"bar\" style=\"margin-left:{:.2}%;width:{:.2}%\"></div></tr>",
            phase.name,
            phase.start,
            phase.seconds,
            percent(phase.start),
            percent(phase.seconds)
        );
    }
    for service in &timeline.services {
        let _ = writeln!(
            html,
            "<tr><td>{} healthy<td class=\"n\">{:.1}<td><td class=\"b\">\
             <div class=\"dot\" style=\"margin-left:{:.2}%\"></div></tr>",
            escaped(&service.name),
            service.at,
            percent(service.at).min(99.0)
        );
    }
    html.push_str("</table>\n");
}

fn add_check(html: &mut String, check: &Value) {
    let text = |key: &str| escaped(check[key].as_str().unwrap_or_default());
    let exit = check["exit"].as_i64();
    let class = if exit == Some(0) {
        ""
    } else {
        " class=\"bad\""
    };
    let exit = exit.map_or_else(|| "did not run".to_owned(), |code| format!("exit {code}"));
    let _ = writeln!(
        html,
        "<h3>Check <code>{}</code>: <span{class}>{exit}</span></h3>\n<pre>{}{}</pre>",
        text("command"),
        text("stdout"),
        text("stderr")
    );
}

/// Text as HTML shows it (HTML standard, 13.3), also inside of quotes.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_timeline::{Moment, Phase};
    use serde_json::json;

    #[test]
    fn nothing_of_the_machine_is_markup() {
        let hostile = "<script>alert('x')</script>&\"";
        let machine = Machine {
            name: hostile.to_owned(),
            timeline: Timeline {
                phases: vec![Phase {
                    name: "firmware",
                    start: 0.0,
                    seconds: 4.0,
                }],
                services: vec![Moment {
                    name: hostile.to_owned(),
                    at: 2.0,
                }],
            },
            node: json!({"checks": [{"command": hostile, "exit": 1, "stdout": hostile, "stderr": hostile}]}),
            serial: format!("\x1b[1m{hostile}\x1b[0m\n").into_bytes(),
        };
        let html = page(hostile, hostile, hostile, &[machine]);
        assert!(!html.contains("<script"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;alert(&#39;x&#39;)").count(), 10);
        assert!(html.contains("width:100.00%") && html.contains("margin-left:50.00%"));
        assert!(!html.contains('\u{1b}'));
    }
}
