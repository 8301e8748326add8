"""The screens of stored responses and conversations without a browser: who reads, what a page costs, what is erased."""

import json
import logging
from typing import Any

import pytest
from django.contrib.admin import site
from django.http import Http404
from django.test import Client, RequestFactory
from django_scopes import scopes_disabled

from gateway.admin.stored_response import StoredAdmin
from gateway.models import Conversation, ConversationItem, EventBatch, StoredResponse
from gateway.state.packing import pack_response
from gateway.stores.retention import limits
from tenants.models import DEFAULT_ORGANIZATION, AuditEntry, Organization, Role, User
from tests.browser.seed import CONVERSATION, EXPRESSION, MARKUP, response_id, seed
from tests.browser.test_pages import SCREEN_QUERIES, Queries

RESPONSES = "/console/gateway/storedresponse/"
CONVERSATIONS = "/console/gateway/conversation/"
LISTS = (RESPONSES, CONVERSATIONS)
ROWS = ((RESPONSES, response_id(1)), (RESPONSES, response_id(2)), (CONVERSATIONS, CONVERSATION))
#: A look at content has an entry in the audit log: a transaction of a lock, the entry before and the new one.
AUDIT_QUERIES = 5
FIRST = f"{RESPONSES}{response_id(1)}/"


@pytest.fixture
def console(client: Client, db: None) -> Client:
    seed()
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def stored_ids() -> set[str]:
    with scopes_disabled():
        return set(StoredResponse.objects.values_list("pk", flat=True))


def test_content_is_not_for_a_member(client: Client, db: None) -> None:
    seed()
    client.force_login(User.objects.create(username="staff", is_staff=True, organization_id=DEFAULT_ORGANIZATION))
    for place, name in ROWS:
        for page in ("change/", "content/", "delete/"):
            answer = client.get(f"{place}{name}/{page}")
            assert answer.status_code == 302, page
            assert answer["Location"].startswith("/console/login/")


def sign_in(client: Client, organization_id: str, role: str, *, may_view_content: bool) -> None:
    client.force_login(
        User.objects.create(
            username="ruler", organization_id=organization_id, role=role, may_view_content=may_view_content
        )
    )


@pytest.mark.parametrize("may_view_content", [True, False])
def test_an_admin_of_the_organization_reads_content_by_a_right_of_its_own(
    client: Client, db: None, may_view_content: bool
) -> None:
    seed()
    sign_in(client, DEFAULT_ORGANIZATION, Role.ORGANIZATION_ADMIN, may_view_content=may_view_content)
    for place in LISTS:
        answer = client.get(place)
        assert answer.status_code == 200
        assert "organization=" not in answer.content.decode()
    for place, name in ROWS:
        page = client.get(f"{place}{name}/change/")
        assert (page.status_code, page.context["may_read"]) == (200, may_view_content)
        assert client.get(f"{place}{name}/content/").status_code == (200 if may_view_content else 404)
        assert client.get(f"{place}{name}/delete/").status_code == 403


def test_an_admin_reads_no_stored_responses_of_another_organization(client: Client, db: None) -> None:
    seed()
    Organization.objects.create(id="umbrella", name="Umbrella")
    sign_in(client, "umbrella", Role.ORGANIZATION_ADMIN, may_view_content=True)
    for place, name in ROWS:
        assert name.encode() not in client.get(place).content
        assert name.encode() not in client.get(place, {"organization": DEFAULT_ORGANIZATION}, follow=True).content
        assert client.get(f"{place}{name}/change/").status_code == 302  # to the index, as for a row that is not there
        assert client.get(f"{place}{name}/content/").status_code == 404


def test_a_billing_viewer_reads_no_stored_responses(client: Client, db: None) -> None:
    seed()
    sign_in(client, DEFAULT_ORGANIZATION, Role.BILLING_VIEWER, may_view_content=True)
    for place, name in ROWS:
        assert client.get(place).status_code == 403
        assert client.get(f"{place}{name}/change/").status_code == 302  # to the index
        assert client.get(f"{place}{name}/content/").status_code == 404


@pytest.mark.parametrize(("place", "name"), ROWS)
def test_a_detail_page_needs_few_queries_and_is_no_larger_than_a_page_may_be(
    console: Client, django_assert_max_num_queries: Queries, place: str, name: str
) -> None:
    with django_assert_max_num_queries(SCREEN_QUERIES + AUDIT_QUERIES):
        answer = console.get(f"{place}{name}/change/")
    assert answer.status_code == 200
    assert len(answer.content) < 150_000


def test_a_huge_response_is_shown_in_part_and_downloaded_whole(console: Client) -> None:
    items = [
        {"type": "message", "role": "user", "id": f"msg_{number}", "content": "x" * 50_000} for number in range(60)
    ]
    with scopes_disabled():
        body, head = pack_response(items, {"status": "completed", "output": []})
        StoredResponse.objects.filter(pk=response_id(1)).update(body=body, head=head)
    page = console.get(f"{FIRST}change/").content.decode()
    assert len(page) < 300_000
    assert "… 40000 more characters" in page
    assert "more items. Download the content" in page
    assert len(console.get(f"{FIRST}content/").content) > 60 * 50_000


@pytest.mark.parametrize("query", ["", "?status__exact=completed&when=24h", "?organization=default", "?model_group=x"])
def test_no_list_counts_its_rows_or_reads_their_content(
    console: Client, django_assert_max_num_queries: Queries, query: str
) -> None:
    for place in LISTS:
        with django_assert_max_num_queries(SCREEN_QUERIES) as captured:
            assert console.get(f"{place}{query}", follow=True).status_code == 200
        queries = [one["sql"] for one in captured.captured_queries if "gateway_" in one["sql"]]
        assert queries
        assert not [sql for sql in queries if "COUNT(" in sql or '"body"' in sql], queries


def test_a_list_costs_the_same_however_many_rows_it_shows(
    console: Client, django_assert_num_queries: Queries, django_assert_max_num_queries: Queries
) -> None:
    with django_assert_max_num_queries(SCREEN_QUERIES) as captured:
        console.get(RESPONSES)
    with scopes_disabled():
        one = StoredResponse.objects.get(pk=response_id(1))
        for number in range(100, 140):
            one.pk = response_id(number)
            one.save(force_insert=True)
    with django_assert_num_queries(len(captured.captured_queries)):
        assert console.get(RESPONSES).content.count(b"resp_") >= 40


def test_the_filter_by_organization_finds_the_same_rows_in_a_large_one(
    console: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scopes_disabled():
        Organization.objects.create(id="abroad", name="Abroad")
        StoredResponse.objects.filter(pk=response_id(3)).update(organization_id="abroad")

    def listed(organization: str) -> set[str]:
        results = console.get(f"{RESPONSES}?organization={organization}").context["cl"].result_list
        return {row.pk for row in results}

    for most in (5_000, 0):
        monkeypatch.setattr("gateway.admin.stored_response.MAX_SORTED_ROWS", most)
        assert listed("abroad") == {response_id(3)}
        assert listed("default") == {response_id(number) for number in (1, 2, 9)}


@pytest.mark.parametrize(
    ("term", "numbers"),
    [
        (response_id(2), {2}),
        (f"msg_{2:048x}0001", {2}),
        (f"team:{EXPRESSION}", {1, 2, 3}),
        ("team:other", set()),
        ("resp_", set()),
        ("%", set()),
    ],
)
def test_search_finds_exact_ids_and_owners(console: Client, term: str, numbers: set[int]) -> None:
    rows = console.get(RESPONSES, {"q": term}).context["cl"].result_list
    assert {row.pk for row in rows} == {response_id(number) for number in numbers}


def test_erasing_is_the_only_write(console: Client) -> None:
    before = stored_ids()
    for place, name in ROWS:
        for page in (f"{name}/change/", "add/"):
            console.post(f"{place}{page}", {"owner": "team:thief", "status": "failed"})
    assert stored_ids() == before
    with scopes_disabled():
        assert not StoredResponse.objects.filter(owner="team:thief").exists()


def test_erasing_a_response_deletes_all_of_its_rows(console: Client) -> None:
    with scopes_disabled():
        StoredResponse.objects.update(is_background=True)
        for name in (response_id(1), response_id(2)):
            EventBatch.objects.create(
                response_id=name, organization_id=DEFAULT_ORGANIZATION, first_number=0, last_number=0, body=b"[]"
            )
    assert console.post(f"{FIRST}delete/", {"post": "yes"}).status_code == 302
    assert response_id(1) not in stored_ids()
    with scopes_disabled():
        assert [batch.response_id for batch in EventBatch.objects.all()] == [response_id(2)]
    page = console.get(f"{RESPONSES}{response_id(2)}/change/").content.decode()
    assert f"{FIRST}change/" not in page  # its parent is told as erased, and is no link


def test_many_are_erased_at_once_from_the_list(console: Client) -> None:
    chosen = [response_id(number) for number in (2, 3)]
    form = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
    assert console.post(RESPONSES, form).status_code == 302
    assert stored_ids() == {response_id(1), response_id(9)}


def test_erasing_a_conversation_deletes_its_items(console: Client) -> None:
    with scopes_disabled():
        assert ConversationItem.objects.count() > limits().rows or limits().rows > 100
    assert console.post(f"{CONVERSATIONS}{CONVERSATION}/delete/", {"post": "yes"}).status_code == 302
    with scopes_disabled():
        assert not Conversation.objects.exists()
        assert not ConversationItem.objects.exists()


def test_a_conversation_is_read_page_by_page(console: Client) -> None:
    first = console.get(f"{CONVERSATIONS}{CONVERSATION}/change/")
    assert (b"Line 99 " in first.content, b"Line 100 " in first.content) == (True, False)
    later = console.get(f"{CONVERSATIONS}{CONVERSATION}/change/?after={first.context['next_after']}")
    assert (b"Line 99 " in later.content, b"Line 129 " in later.content) == (False, True)
    assert later.context["next_after"] is None
    for odd in ("-1", "x", "9" * 40, "²"):
        assert console.get(f"{CONVERSATIONS}{CONVERSATION}/change/", {"after": odd}).status_code == 200


def test_a_download_equals_the_answer_of_the_api(console: Client) -> None:
    answer = console.get(f"{FIRST}content/")
    assert answer["Content-Disposition"] == f'attachment; filename="{response_id(1)}.json"'
    assert "no-store" in answer["Cache-Control"]
    content: Any = json.loads(answer.content)
    assert content["response"]["output"][1]["name"] == "get_weather"
    assert "encrypted_content" not in content["response"]["output"][0]
    assert content["input"][1]["content"][0]["text"].endswith(MARKUP)
    whole = json.loads(console.get(f"{CONVERSATIONS}{CONVERSATION}/content/").content)
    assert len(whole["items"]) == 130


def test_each_access_to_content_is_logged(console: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="gateway.admin.stored_response"):
        console.get(RESPONSES)
        assert not caplog.records
        console.get(f"{FIRST}change/")
        console.get(f"{FIRST}content/")
        console.get(f"{CONVERSATIONS}{CONVERSATION}/change/")
    assert [(vars(record)["user"], vars(record)["row"]) for record in caplog.records] == [
        ("root", response_id(1)),
        ("root", response_id(1)),
        ("root", CONVERSATION),
    ]
    entries = AuditEntry.objects.filter(action="read").order_by("id")
    assert list(entries.values_list("actor", "object_type", "object_id", "organization_id")) == [
        ("root", "storedresponse", response_id(1), DEFAULT_ORGANIZATION),
        ("root", "storedresponse", response_id(1), DEFAULT_ORGANIZATION),
        ("root", "conversation", CONVERSATION, DEFAULT_ORGANIZATION),
    ]


@pytest.mark.parametrize("place", LISTS)
def test_an_unknown_row_is_reported_as_unknown(console: Client, place: str) -> None:
    assert console.get(f"{place}resp_nothing/content/").status_code == 404
    answer = console.get(f"{place}resp_nothing/change/", follow=True)
    assert b"exist" in answer.content


@pytest.mark.usefixtures("db")
def test_a_role_that_may_not_read_gets_a_page_without_content(
    rf: RequestFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A viewer of the platform sees the rows; content is for platform admins."""
    seed()
    request = rf.get("/")
    request.user = User.objects.create(
        username="viewer", is_staff=True, organization_id=DEFAULT_ORGANIZATION, role=Role.PLATFORM_VIEWER
    )
    caplog.clear()
    with scopes_disabled(), caplog.at_level(logging.INFO):
        for model, name in ((StoredResponse, response_id(1)), (Conversation, CONVERSATION)):
            screen = site._registry[model]
            assert isinstance(screen, StoredAdmin)
            context = screen.change_view(request, name).context_data  # type: ignore[attr-defined]
            assert (context["may_read"], context["may_erase"]) == (False, False)
            assert not {"asked", "answered", "said", "metadata"} & set(context)
            assert "labels" not in screen.get_list_display(request)
            with pytest.raises(Http404):
                screen.download(request, name)
    assert not caplog.records
