//! Pure: the curves as an SVG file. Six panels; tenants from left to right by powers of ten, what something costs from 0
//! upwards.

use std::fmt::Write as _;

use super::Point;

const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 200.0;
/// Around the curve of a panel: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (48.0, 34.0, 14.0, 28.0);

type Of = fn(&Point) -> f64;

/// Title with unit, what is shown, and the floor in that unit.
const PANELS: [(&str, Of, Option<f64>); 6] = [
    ("add-tenant, ms", |p| p.add, None),
    ("remove-tenant, ms", |p| p.remove, None),
    ("change, ms", |p| p.change, None),
    ("restart: CPU time of the daemon, s", |p| p.processor / 1e3, Some(3.0)),
    ("memory a tenant, KiB", |p| p.memory, Some(1024.0)),
    ("BPF programs, a packet and its answer, ns", |p| p.packet, None),
];

/// The file.
pub(super) fn svg(points: &[Point]) -> String {
    let (width, height) = (3.0 * WIDTH, 2.0 * HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (number, (title, of, floor)) in PANELS.iter().enumerate() {
        let at = ((number % 3) as f64 * WIDTH, (number / 3) as f64 * HEIGHT);
        let values: Vec<(f64, f64)> = points.iter().map(|p| (p.tenants as f64, of(p))).collect();
        panel(&mut out, at, title, &values, *floor);
    }
    out + "</svg>\n"
}

/// What was not measured (0) is left out.
fn panel(out: &mut String, at: (f64, f64), title: &str, values: &[(f64, f64)], floor: Option<f64>) {
    let most = values.iter().map(|v| v.1).chain(floor).fold(0.0, f64::max);
    let top = step(most) * (most / step(most)).ceil().max(1.0);
    let last = values.iter().map(|v| v.0).fold(10.0, f64::max).log10();
    let (wide, high) = (WIDTH - MARGIN.0 - MARGIN.2, HEIGHT - MARGIN.1 - MARGIN.3);
    let x = |n: f64| at.0 + MARGIN.0 + wide * n.log10() / last;
    let y = |v: f64| at.1 + MARGIN.1 + high * (1.0 - v / top);
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = out.write_fmt(text);
        out.push('\n');
    };
    line(format_args!("<text x=\"{:.0}\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>", at.0 + 12.0, at.1 + 18.0));
    let mut mark = 0.0;
    while mark <= top * 1.001 {
        let (left, right, here) = (x(1.0), x(10_f64.powf(last)), y(mark));
        line(format_args!("<path d=\"M{left:.1} {here:.1}H{right:.1}\" stroke=\"#ddd\"/>"));
        line(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>", left - 6.0, here + 4.0));
        mark += step(top);
    }
    for (n, _) in values {
        let (here, below) = (x(*n), at.1 + HEIGHT - 10.0);
        line(format_args!("<text x=\"{here:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{n}</text>"));
    }
    if let Some(floor) = floor {
        let (left, right, here) = (x(1.0), x(10_f64.powf(last)), y(floor));
        line(format_args!("<path d=\"M{left:.1} {here:.1}H{right:.1}\" stroke=\"#c33\" stroke-dasharray=\"5 4\"/>"));
    }
    let measured: Vec<_> = values.iter().filter(|v| v.1 > 0.0).map(|(n, v)| (x(*n), y(*v))).collect();
    let path: Vec<String> = measured.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    line(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"#25c\" stroke-width=\"2\"/>", path.join(" ")));
    for (x, y) in measured {
        line(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#25c\"/>"));
    }
}

/// Between two marks: 1, 2 or 5 times a power of ten, so that there are at most six of them.
fn step(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| power * times >= most / 5.0);
    power * times.unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_few_and_round() {
        assert_eq!(step(10.0), 2.0);
        assert_eq!(step(1024.0), 500.0);
        assert_eq!(step(3.0), 1.0);
        assert_eq!(step(0.0), 1.0);
    }

    #[test]
    fn every_measured_point_is_drawn_and_none_that_was_not() {
        let point = |tenants, add| Point { tenants, add, ..Point::default() };
        let text = svg(&[point(1, 0.0), point(10, 3.0), point(4000, 4.0)]);
        assert_eq!(text.matches("<circle").count(), 2, "{text}");
        assert_eq!(text.matches("<polyline").count(), PANELS.len());
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    }
}
