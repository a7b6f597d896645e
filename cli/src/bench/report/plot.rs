//! A plot of lines over the number of Services, as inline SVG. Own code: what is needed fits in a page of it, and
//! the report must not fetch anything.

use std::fmt::Write as _;

use crate::bench::figures::Column;
use crate::bench::results::Line;
use crate::bench::results::number;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;

pub(super) fn colour(column: Column) -> &'static str {
    match column {
        Column::Direct => "#7f7f7f",
        Column::Pod => "#2f8f6f",
        Column::Waggle => "#d98200",
        Column::Iptables => "#b5323c",
        Column::Nftables => "#3a62b5",
    }
}

/// One point of a line: number of Services, median, lowest, highest.
type Point = (f64, f64, f64, f64);

struct Scale {
    low: f64,
    high: f64,
    /// Pixels of the two.
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let shape = |value: f64| {
            if self.logarithmic {
                value.log10()
            } else {
                value
            }
        };
        let (low, high) = (shape(self.low), shape(self.high));
        let part = if high > low {
            (shape(value) - low) / (high - low)
        } else {
            0.5
        };
        self.from + part * (self.to - self.from)
    }
}

/// All lines are of one figure.
pub(super) fn plot(lines: &[&Line]) -> Option<String> {
    let series: Vec<(Column, Vec<Point>)> = Column::ALL
        .into_iter()
        .map(|column| (column, points(lines, column)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let all: Vec<Point> = series
        .iter()
        .flat_map(|(_, points)| points.clone())
        .collect();
    let first = lines.first()?;
    let values = all.iter().flat_map(|(_, _, low, high)| [*low, *high]);
    let (lowest, highest) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| {
        (low.min(value), high.max(value))
    });
    if all.is_empty() || highest <= 0.0 {
        return None;
    }
    // What spans more than two powers of ten is not to be seen on an even scale.
    let logarithmic = lowest > 0.0 && highest / lowest > 30.0;
    let (low, high) = if logarithmic {
        (
            10f64.powf(lowest.log10().floor()),
            10f64.powf(highest.log10().ceil()),
        )
    } else {
        (0.0, nice(highest))
    };
    let x = Scale {
        low: all
            .iter()
            .map(|point| point.0)
            .fold(f64::INFINITY, f64::min),
        high: all.iter().map(|point| point.0).fold(0.0, f64::max),
        from: LEFT,
        to: WIDTH - RIGHT,
        logarithmic: true,
    };
    let y = Scale {
        low,
        high,
        from: HEIGHT - BOTTOM,
        to: TOP,
        logarithmic,
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by number of Services\">",
        first.title
    );
    axes(&mut svg, &x, &y, lines);
    for (column, points) in &series {
        draw(&mut svg, *column, points, &x, &y);
    }
    svg.push_str("</svg>");
    Some(svg)
}

fn points(lines: &[&Line], column: Column) -> Vec<Point> {
    lines
        .iter()
        .filter_map(|line| {
            let cell = line.cell(column)?;
            Some((
                f64::from(line.services),
                cell.median?,
                cell.lowest?,
                cell.highest?,
            ))
        })
        .collect()
}

/// The next number with one digit that is worth reading.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value)
        .unwrap_or(value)
}

fn axes(svg: &mut String, x: &Scale, y: &Scale, lines: &[&Line]) {
    let ticks: Vec<f64> = if y.logarithmic {
        let (low, high) = (y.low.log10().round() as i32, y.high.log10().round() as i32);
        (low..=high).map(|power| 10f64.powi(power)).collect()
    } else {
        (0..=4).map(|part| y.high * f64::from(part) / 4.0).collect()
    };
    for tick in ticks {
        let at = y.at(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            if tick == 0.0 {
                "0".to_owned()
            } else {
                number(tick)
            }
        );
    }
    for line in lines {
        let at = x.at(f64::from(line.services));
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 16.0,
            line.services
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">Services</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 4.0
    );
}

fn draw(svg: &mut String, column: Column, points: &[Point], x: &Scale, y: &Scale) {
    let colour = colour(column);
    let path: Vec<String> = points
        .iter()
        .map(|(services, median, _, _)| format!("{:.1},{:.1}", x.at(*services), y.at(*median)))
        .collect();
    let _ = write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    for (services, median, low, high) in points {
        let (at, middle) = (x.at(*services), y.at(*median));
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/><circle cx=\"{at:.1}\" cy=\"{middle:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {} at {services} Services ({} to {})</title></circle>",
            y.at(*low),
            y.at(*high),
            column.name(),
            number(*median),
            number(*low),
            number(*high)
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::figures::CONNECT_P50;
    use crate::bench::results::Measured;

    #[test]
    fn lines_keep_inside_the_plot_whatever_their_span() {
        for values in [[10.0, 12.0], [1.0, 900.0], [5.0, 5.0]] {
            let mut measured = Measured::default();
            for (services, value) in [10, 30_000].into_iter().zip(values) {
                measured.add(services, CONNECT_P50, Column::Waggle, value);
            }
            let lines = measured.lines(&[10, 30_000]);
            let svg = plot(&lines.iter().collect::<Vec<_>>()).unwrap();
            let points = svg
                .split("points=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap();
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{svg}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{svg}");
            }
        }
    }

    #[test]
    fn nothing_measured_is_no_plot() {
        assert_eq!(plot(&[]), None);
    }
}
