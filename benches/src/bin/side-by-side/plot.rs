//! The ratios as a picture.

use netvsc_benches::compare::report::{Ratios, Row};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 860;
const ROW: u32 = 28;
const MARGINS: u32 = 110;
const LABELS: u32 = 210;
const OURS: RGBColor = RGBColor(0x2f, 0x6f, 0xb5);
const WHISKERS: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FONT: &str = "sans-serif";

/// How many times as fast as DPDK each row is: a bar to the median, a line from the least to the most. Rows without packets
/// are left out: they are in another unit.
pub(crate) fn svg(rows: &[Row]) -> anyhow::Result<String> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.has_packets()).collect();
    let mut text = String::new();
    let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("draw: {error}");
    draw(&rows, &mut text).map_err(|error| failed(&error))?;
    Ok(text)
}

fn draw(rows: &[&Row], text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let height = MARGINS + ROW * rows.len() as u32;
    let area = SVGBackend::with_string(text, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = rows.iter().map(|row| row.ratios().max).fold(1.0, f64::max) * 1.35;
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("Packets per second, as a multiple of DPDK's on the same simulated host", (FONT, 17))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(LABELS)
        // The first row is at the top.
        .build_cartesian_2d(0.0..most, count..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|ratio| format!("{ratio:.1}"))
        .label_style((FONT, 13))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for (at, row) in rows.iter().enumerate() {
        let Ratios { median, min, max } = row.ratios();
        let middle = at as f64 + 0.5;
        chart.draw_series([Rectangle::new([(0.0, middle - 0.32), (median, middle + 0.32)], OURS.filled())])?;
        let line = WHISKERS.stroke_width(2);
        let end = |ratio: f64| vec![(ratio, middle - 0.15), (ratio, middle + 0.15)];
        for points in [vec![(min, middle), (max, middle)], end(min), end(max)] {
            chart.draw_series([PathElement::new(points, line)])?;
        }
        let beside = (FONT, 13).into_font().color(&BLACK);
        let name = beside.clone().pos(Pos::new(HPos::Right, VPos::Center));
        chart.draw_series([EmptyElement::at((0.0, middle)) + Text::new(row.name.clone(), (-8, 0), name)])?;
        let [ours, dpdk] = row.medians(|run| Some(run.mpps));
        let rates = format!("{:.2} / {:.2} Mpps", ours.unwrap_or_default(), dpdk.unwrap_or_default());
        let rates_style = beside.pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series([EmptyElement::at((max, middle)) + Text::new(rates, (8, 0), rates_style)])?;
    }
    chart.draw_series([PathElement::new(vec![(1.0, 0.0), (1.0, count)], RED.stroke_width(1))])?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use netvsc_benches::compare::report::{Pair, Run, Sample};

    use super::*;

    #[test]
    fn rows_with_packets_are_drawn() {
        let row = |name: &str, rates: [[f64; 2]; 2], cpu: Option<f64>| {
            let sample = |mpps| Sample { run: Run { mpps, cycles: None, cpu }, round_trips_ns: [65.0; 2] };
            let mut row = Row::new(name.into());
            for [ours, dpdk] in rates {
                row.add(Pair { ours: sample(ours), dpdk: sample(dpdk) });
            }
            row
        };
        let moving = row("txonly 64 B", [[15.5, 9.1], [14.5, 9.3]], None);
        let picture = svg(&[moving, row("idle", [[0.0; 2]; 2], Some(0.5))]).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        assert!(picture.contains("txonly 64 B") && picture.contains("15.00 / 9.20 Mpps"), "{picture}");
        assert!(!picture.contains("idle"), "{picture}");
        assert!(svg(&[]).is_ok());
    }
}
