//! The statistics as a page.

use std::fmt::Write;

use serde_json::Value;

/// Draws one table for each object in `numbers`. The page fetches `/stats.json` every second and fills in new values.
pub(super) fn render(numbers: &Value) -> String {
    let mut tables = String::new();
    for (title, rows) in numbers.as_object().into_iter().flatten() {
        // Writing to a string cannot fail.
        let _ = writeln!(tables, "<table><caption>{}</caption>", escape(title));
        for (name, value) in rows.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let (title, name, text) = (escape(title), escape(name), escape(&text));
            let _ = writeln!(tables, "<tr><td>{name}</td><td id=\"{title}.{name}\">{text}</td></tr>");
        }
        tables.push_str("</table>\n");
    }
    TEMPLATE.replace("@TABLES@", &tables)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const TEMPLATE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>netvsc appliance</title>
<style>
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; }
table { border-collapse: collapse; margin-bottom: 2em; }
caption { text-align: left; font-weight: bold; padding-bottom: .5em; }
td { border-bottom: 1px solid #ccc; padding: .2em 1em .2em 0; }
td + td { text-align: right; font-family: monospace; }
</style>
</head>
<body>
<h1>netvsc appliance</h1>
<p>This page comes from a TCP/IP stack in user space, over a synthetic network adapter.
Try <a href="/stats.json">/stats.json</a> and <a href="/blob?bytes=67108864">/blob?bytes=67108864</a>.</p>
@TABLES@<script>
setInterval(async () => {
  const tables = await (await fetch("/stats.json")).json();
  for (const [title, rows] of Object.entries(tables))
    for (const [name, value] of Object.entries(rows)) {
      const cell = document.getElementById(title + "." + name);
      if (cell) cell.textContent = value;
    }
}, 1000);
</script>
</body>
</html>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_every_value_and_escapes_it() {
        let page = render(&serde_json::json!({ "nic": { "rx_packets": 5, "name": "<b>\"&" } }));
        assert!(page.contains("<td id=\"nic.rx_packets\">5</td>"), "{page}");
        assert!(page.contains("&lt;b&gt;&quot;&amp;"), "{page}");
        assert!(!page.contains("@TABLES@"));
    }
}
