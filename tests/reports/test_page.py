"""The page: whole in itself, safe against the names in it, and working in a browser."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xyscannet.errors import ConfigError, InputError
from xyscannet.reports.page import DETAIL, SIDE, write_page
from xyscannet.reports.results import Column, Evaluation, ImageResult, Summary

PSNR = Column("psnr", "PSNR", "dB", True, "scikit-image")
LPIPS = Column("lpips-alex", "LPIPS (AlexNet)", "", False, "lpips")
HOSTILE = "</script><img src=x onerror=\"document.title='caught'\">&\u2028{{DATA}}"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A machine without a network: what Chromium asks for by itself is left out.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]


def pixels(path: str) -> np.ndarray:
    """A picture that depends on its file's name: grey levels, or what is wrong with it."""
    if "missing" in path:
        raise InputError(f"{path} does not exist")
    level = {"blur": 60, "out": 120, "sharp": 180}[path.split("/")[0]]
    side = 2 * SIDE if "large" in path else 48
    image = np.full((side // 2, side, 3), level, np.uint8)
    if "sharp/large" in path:
        image[:DETAIL, 2 * DETAIL : 3 * DETAIL] = 255  # where the restored image differs most
    return image


def evaluation(label="network", count=5, name="image {}", **changes):
    images = []
    for i in range(count):
        file = name.format(i)
        made = None if label == "blurred input" else f"out/{file}"
        images.append(
            ImageResult(
                file, {"psnr": 20.0 + (i * 7) % 11, "lpips-alex": 0.1 * i}, f"blur/{file}", made or f"blur/{file}",
                f"sharp/{file}", 24, 48,
            )
        )  # fmt: skip
    summary = {
        "psnr": Summary(25.0, 25.0, 24.0, 26.0, count),
        "lpips-alex": Summary(0.2, 0.2, 0.1, 0.3, count),
    }
    given = {
        "label": label,
        "dataset": "mini",
        "protocol": "plain",
        "columns": (PSNR, LPIPS),
        "images": tuple(images),
        "summaries": summary,
        "command": "xyscan eval",
    }
    return Evaluation(**{**given, **changes})


def made(path: Path, *evaluations: Evaluation, **options) -> tuple[str, dict]:
    write_page(path, evaluations, read=pixels, **options)
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return text, json.loads(found[1])


def test_nothing_comes_from_elsewhere(tmp_path):
    text, _ = made(tmp_path / "p.html", evaluation("blurred input"), evaluation())
    assert "default-src 'none'" in text and "unsafe" not in text
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "@import" not in text and "url(" not in text
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]


def test_names_cannot_leave_the_data(tmp_path):
    hostile = evaluation(HOSTILE, 2, HOSTILE.replace("/", "_") + "{}", dataset=HOSTILE, machine=HOSTILE)
    text, data = made(tmp_path / "p.html", hostile)
    assert data["methods"] == [HOSTILE] and data["images"][1]["name"].endswith("1")
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img src=x" not in text
    assert "{{" not in re.sub(
        r'id="data">.*?</script>', "", re.sub(r"<(title|h1)>.*?</\1>", "", text), flags=re.DOTALL
    )


def test_names_that_are_not_unicode(tmp_path):
    _, data = made(tmp_path / "p.html", evaluation(count=1, name="\udcff"))
    assert data["images"][0]["name"] == "\\udcff" or data["images"][0]["name"] == "\udcff"


def test_the_same_page_twice(tmp_path):
    one, other = (made(tmp_path / f"{i}.html", evaluation())[0] for i in range(2))
    assert one == other


def test_many_images_stay_a_page(tmp_path):
    text, data = made(tmp_path / "p.html", evaluation(count=400))
    shown = [image["name"] for image in data["images"] if image["view"]]
    assert len(data["images"]) == 400 and len(shown) == data["embedded"] == 24
    values = sorted(image["values"][0]["psnr"] for image in data["images"] if image["view"])
    assert values[0] == 20.0 and values[-1] == 30.0 and len(set(values)) > 2
    assert len(text) < 400_000


def test_large_pictures_are_scaled_and_cut_where_it_matters(tmp_path):
    _, data = made(tmp_path / "p.html", evaluation(count=1, name="large {}"))
    view = data["images"][0]["view"]
    assert view["box"] == [2 * DETAIL, 0, DETAIL]
    assert [p["label"] for p in view["pictures"]] == ["Blurred", "network", "Sharp"]
    assert all(p["whole"].startswith("data:image/webp;base64,") and p["detail"] for p in view["pictures"])


def test_what_is_missing_is_told(tmp_path):
    images = (
        ImageResult(
            "failed",
            {"psnr": None, "lpips-alex": None},
            "blur/missing",
            None,
            None,
            failures={"image": "gone"},
        ),
        *evaluation(count=2).images,
    )
    _, data = made(tmp_path / "p.html", evaluation(images=images))
    failed = data["images"][0]
    assert failed["failures"] == [{"image": "gone"}] and failed["view"]["pictures"] == []
    assert "blur/missing does not exist" in " ".join(failed["view"]["problems"])
    with pytest.raises(ConfigError):
        write_page(tmp_path / "q.html", [], read=pixels)
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path / "no/such/folder.html", [evaluation()], read=pixels)


def test_the_papers_rows_are_not_marked_as_measured(tmp_path):
    _, data = made(
        tmp_path / "p.html", evaluation("XYScanNet", dataset="gopro"), evaluation("DSR", dataset="gopro")
    )
    rows = data["summary"]["rows"]
    assert [row["cells"][0].rstrip("*†‡§¶#") for row in rows if row["measured"]] == ["XYScanNet", "DSR"]
    assert any(row["cells"][0].startswith("DSR-SA") for row in rows)


def test_restored_images_alone_go_by_their_name(tmp_path):
    given = evaluation("theirs")
    images = tuple(replace(image, restored=image.blur) for image in given.images)
    _, data = made(tmp_path / "p.html", replace(given, images=images))
    assert [p["label"] for p in data["images"][0]["view"]["pictures"]] == ["theirs", "Sharp"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@pytest.fixture
def page(browser, tmp_path):
    """A page of two methods, opened; no message of the browser's console may be left at the end."""
    evaluations = [evaluation("blurred input"), evaluation("network")]
    hostile = replace(evaluations[1].images[0], name=HOSTILE, failures={"psnr": HOSTILE})
    evaluations[1] = replace(evaluations[1], images=(*evaluations[1].images, hostile))
    write_page(tmp_path / "p.html", evaluations, read=pixels)
    opened, messages = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light"), []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.goto((tmp_path / "p.html").as_uri())
    opened.wait_for_function("document.getElementById('under').naturalWidth > 0")
    yield opened
    assert messages == [] and opened.title() == "network on mini"
    opened.close()


def names(page) -> list[str]:
    return page.locator("#table tbody tr:visible td:first-child").all_inner_texts()


def test_the_worst_come_first_and_columns_sort(page):
    psnr = [
        float(t) for t in page.locator("#table tbody tr td:nth-child(3)").all_inner_texts() if t != "failed"
    ]
    assert psnr == sorted(psnr)
    button = page.locator("#table th button").nth(3)
    button.click()
    assert (
        page.locator("#table th").nth(3).get_attribute("aria-sort") == "descending"
    )  # LPIPS: the worst is high
    values = [float(t) for t in page.locator("#table tbody tr td:nth-child(4)").all_inner_texts() if t != "–"]
    assert values == sorted(values, reverse=True)
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#table th").nth(3).get_attribute("aria-sort") == "ascending"
    page.locator("#table th button").nth(0).click()
    assert names(page)[1:] == sorted(names(page)[1:])


def brightness(page, x: float) -> int:
    """The grey level of the stage at a fraction of its width."""
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(page.locator("#stage").screenshot())).convert("L")
    return picture.getpixel((int(x * picture.width), picture.height * 3 // 4))


def test_the_slider_moves(page):
    assert brightness(page, 0.25) == pytest.approx(60, abs=3) and brightness(page, 0.75) == pytest.approx(
        120, abs=3
    )
    page.locator("#slider").fill("90")
    assert brightness(page, 0.75) == pytest.approx(60, abs=3) and brightness(page, 0.95) == pytest.approx(
        120, abs=3
    )
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 100)
    page.mouse.up()
    assert float(page.locator("#slider").input_value()) == pytest.approx(10, abs=1)
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert float(page.locator("#slider").input_value()) == pytest.approx(20, abs=1)
    page.keyboard.press("Shift+ArrowRight")
    assert float(page.locator("#slider").input_value()) == pytest.approx(30, abs=1)
    page.locator("#left").select_option("Sharp")
    assert brightness(page, 0.15) == pytest.approx(180, abs=3)


def test_keys_zoom_and_other_images(page):
    first = page.locator("#name").inner_text()
    page.keyboard.press("n")
    assert page.locator("#name").inner_text() != first
    page.keyboard.press("p")
    assert page.locator("#name").inner_text() == first
    page.keyboard.press("+")
    assert page.locator("#scale").inner_text() == "1.5×"
    assert "scale(1.5)" in page.locator("#under").get_attribute("style")
    page.locator("#stage").hover()
    page.mouse.wheel(0, -300)
    assert float(page.locator("#scale").inner_text().rstrip("×")) > 3
    page.keyboard.press("0")
    assert page.locator("#scale").inner_text() == "1×"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("?")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("/")
    page.keyboard.type("image 3")
    assert names(page) == ["image 3"] and "1 of 6" in page.locator("#count").inner_text()


def test_light_and_dark(page):
    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    page.keyboard.press("t")
    assert ground() == light
    page.keyboard.press("t")
    assert ground() == dark
    assert len(page.locator("#histograms svg rect").all()) > 10


def test_a_phone_is_wide_enough(page):
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
