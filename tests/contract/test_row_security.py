"""Row-level security: with the ORM's filter removed on purpose, the database itself keeps organizations apart."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO
from threading import Thread

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, ProgrammingError, connection, transaction
from django.db.models import Model
from django.test import override_settings
from django_scopes import scope, scopes_disabled

from billing.models import Price
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.stores.schema import DatabaseNotReady, check_schema
from gateway.stores.schema import check_row_security as check_row_security_of_start
from tenants.audit import audited, find_broken_entry
from tenants.ids import new_id
from tenants.models import (
    DEFAULT_ORGANIZATION,
    AuditEntry,
    BudgetTemplate,
    Membership,
    Organization,
    Team,
    User,
    VirtualKey,
)
from tenants.row_security import checks
from tenants.row_security.checks import check_row_security, row_security_warnings
from tenants.row_security.policies import put_on, read_status, table_policies, take_off
from tests.contract.isolation_world import build_world

pytestmark = [pytest.mark.only_on("walled"), pytest.mark.django_db]

OPEN_WITHOUT_SCOPE = {"tenants_organization", "tenants_user"}
#: Table → the organizations of the rows that every scope reads.
SHARED: Mapping[str, tuple[str | None, ...]] = {"tenants_user": (None,), "billing_price": ("",)}


@pytest.fixture
def test_scope() -> None:
    """No scope but those of the tests."""


@pytest.fixture
def world() -> None:
    """Rows of acme and umbrella in most tables."""
    with scopes_disabled(), transaction.atomic():
        build_world()


def organizations_of(model: type[Model]) -> set[str | None]:
    """The organizations of the rows that the database shows to a query without the ORM's filter."""
    return set(model._base_manager.values_list("organization_id", flat=True))


def teams() -> set[str]:
    return set(Team._base_manager.values_list("pk", flat=True))


@pytest.mark.usefixtures("world")
def test_without_the_filter_a_scope_sees_its_own_rows_only():
    for model in (Team, VirtualKey, Membership, BudgetTemplate):
        with scopes_disabled():
            assert {"acme", "umbrella"} <= organizations_of(model)
        for own in ("acme", "umbrella"):
            with scope(organization=own):
                assert organizations_of(model) == {own}


@pytest.mark.usefixtures("world")
def test_raw_sql_in_a_scope_sees_its_own_rows_only():
    for policy in table_policies():
        column = "id" if policy.table == "tenants_organization" else "organization_id"
        with scope(organization="umbrella"), connection.cursor() as cursor:
            cursor.execute(f'SELECT DISTINCT {column} FROM "{policy.table}"')
            assert {found for (found,) in cursor.fetchall()} <= {"umbrella", *SHARED.get(policy.table, ())}


@pytest.mark.usefixtures("world")
def test_without_a_scope_no_row_of_a_tenant_is_seen():
    with connection.cursor() as cursor:
        for policy in table_policies():
            cursor.execute(f'SELECT count(*) FROM "{policy.table}"')
            (count,) = cursor.fetchone()
            assert (count > 0) == (policy.table in OPEN_WITHOUT_SCOPE), policy.table


@pytest.mark.usefixtures("world")
def test_a_scope_without_an_organization_sees_nothing():
    with scope(organization=None):  # django-scopes itself filters nothing then
        assert not Team.objects.exists()
        assert not User._base_manager.filter(organization_id="acme").exists()
    with scope(organization=["acme", "umbrella"]):
        assert not Team.objects.exists()


@pytest.mark.usefixtures("world")
def test_rows_of_others_are_neither_changed_nor_deleted():
    with scope(organization="umbrella"):
        assert Team._base_manager.filter(pk="research").update(alias="taken") == 0
        assert Team._base_manager.exclude(organization_id="umbrella").delete()[0] == 0
        assert User._base_manager.filter(username="owner").update(is_superuser=True) == 0
        assert User._base_manager.filter(username="root").update(is_superuser=False) == 0
        assert Organization.objects.filter(pk="acme").update(blocked=True) == 0
        assert Organization.objects.filter(pk="umbrella").update(blocked=True) == 1
        with connection.cursor() as cursor:
            cursor.execute("UPDATE tenants_virtualkey SET blocked = true")
            changed = cursor.rowcount
    with scopes_disabled():
        assert Team.objects.get(pk="research").alias == "research"
        assert not User.objects.get(username="owner").is_superuser
        assert User.objects.get(username="root").is_superuser
        assert not Organization.objects.get(pk="acme").blocked
        assert changed == VirtualKey.objects.filter(organization_id="umbrella").count() > 0


@pytest.mark.usefixtures("world")
def test_no_row_is_inserted_for_another_or_moved_to_it():
    with scope(organization="umbrella"):
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            Team._base_manager.create(id="planted", alias="planted", organization_id="acme")
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            Team._base_manager.filter(pk="raccoon").update(organization_id="acme")
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            User.objects.create(username="root-2", is_superuser=True)
        Team._base_manager.create(id="own", alias="own", organization_id="umbrella")
    with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
        Team._base_manager.create(id="nowhere", alias="nowhere", organization_id="acme")
    with scopes_disabled():
        assert not Team.objects.filter(pk__in=("planted", "nowhere")).exists()
        assert Team.objects.get(pk="raccoon").organization_id == "umbrella"


@pytest.mark.usefixtures("world")
def test_templates_of_the_platform_are_read_and_not_changed():
    with scopes_disabled():
        BudgetTemplate.objects.create(id="platform", organization_id=DEFAULT_ORGANIZATION)
        Team.objects.filter(pk="research").update(budget_template_id="platform")
    with scope(organization="acme"):
        assert Team.objects.select_related("budget_template").get(pk="research").budget_template is not None
        assert BudgetTemplate._base_manager.filter(pk="platform").update(is_end_user_default=True) == 0
        assert BudgetTemplate._base_manager.filter(pk="platform").delete()[0] == 0
    assert not BudgetTemplate._base_manager.filter(pk="platform").exists(), "nothing without a scope"


def test_prices_of_the_catalogue_are_read_and_not_changed():
    price = {"provider": "openai", "model": "walled", "lines": {"input": "0.000001"}, "deployment_id": ""}
    with scopes_disabled():
        for owner in ("", "acme", "umbrella"):
            Price.objects.create(**price, organization_id=owner)
    rows = Price.objects.filter(model="walled")
    with scope(organization="acme"):
        assert set(rows.values_list("organization_id", flat=True)) == {"", "acme"}
        assert rows.filter(organization_id="").update(status=Price.Status.RETIRED) == 0
        assert rows.filter(organization_id="").delete()[0] == 0
    for nowhere in (None, ["acme", "umbrella"]):
        with scope(organization=nowhere):
            assert set(rows.values_list("organization_id", flat=True)) == {""}
            assert rows.update(status=Price.Status.RETIRED) == 0
    assert not rows.exists(), "nothing without a scope"
    assert rows.delete()[0] == 0
    with scopes_disabled():
        assert set(rows.values_list("status", flat=True)) == {Price.Status.ACTIVE}


def test_a_tenant_changes_a_deployment_and_leaves_its_price():
    lines: dict[str, object] = {"input": "0.000001"}
    with scopes_disabled():
        Organization.objects.create(id="acme", name="acme")
        row = Deployment(model_group="walled", provider="openai", upstream_model="gpt", organization_id="acme")
        price_id = save_deployment(row, credential={"api_key": "k"}, price_lines=lines).price_id
    with scope(organization="acme"):
        row = Deployment.objects.get(pk=row.pk)
        row.weight = 2
        assert save_deployment(row, price_lines=lines).price_id == price_id != ""


@pytest.mark.usefixtures("world")
def test_the_wall_follows_the_scope():
    with scope(organization="acme"):
        assert teams() == {"research", "sales"}
        with scope(organization="umbrella"):
            assert teams() == {"raccoon"}
        assert teams() == {"research", "sales"}
        with scopes_disabled():
            assert teams() >= {"research", "sales", "raccoon"}
            with scope(organization="umbrella"):
                assert teams() == {"raccoon"}
        assert teams() == {"research", "sales"}
    assert teams() == set()


class Abandoned(Exception):
    """Ends a block and its transaction."""


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("savepoint", [True, False])
def test_a_rollback_does_not_bring_an_earlier_scope_back(savepoint: bool):
    """The server takes a setting back with the transaction that has set it, and the connection must know."""
    with scope(organization="acme"):
        assert teams() == {"research", "sales"}
    try:
        with scope(organization="umbrella"), transaction.atomic(savepoint=savepoint):
            assert teams() == {"raccoon"}
            raise Abandoned
    except Abandoned:
        pass
    if not savepoint:
        connection.needs_rollback = False  # what a test's own transaction leaves behind
    with scope(organization="umbrella"):
        assert teams() == {"raccoon"}


@pytest.mark.usefixtures("world")
def test_a_failed_statement_does_not_stop_the_rollback_of_its_savepoint():
    with scope(organization="acme"):
        with pytest.raises(IntegrityError), transaction.atomic(), scope(organization="umbrella"):
            Team._base_manager.create(id="raccoon", alias="twice", organization_id="umbrella")
        assert teams() == {"research", "sales"}


@pytest.mark.django_db(transaction=True)
class TestConnections:
    """With transactions of their own."""

    @pytest.fixture(autouse=True)
    def rows(self) -> None:
        with scopes_disabled():
            for name in ("acme", "umbrella"):
                organization, _ = Organization.objects.get_or_create(id=name, defaults={"name": name})
                Team.objects.create(id=f"{name}-team", alias=name, organization=organization)

    def test_a_rolled_back_transaction(self):
        with scope(organization="acme"):
            assert teams() == {"acme-team"}
        try:
            with scope(organization="umbrella"), transaction.atomic():
                assert teams() == {"umbrella-team"}
                raise Abandoned
        except Abandoned:
            pass
        with scope(organization="umbrella"):
            assert teams() == {"umbrella-team"}

    def test_a_commit_of_a_failed_transaction(self):
        """Django commits where the error was caught; the server rolls back, and with it the scope."""
        with scope(organization="acme"):
            assert teams() == {"acme-team"}
        with scope(organization="umbrella"):
            connection.set_autocommit(False)
            try:
                assert teams() == {"umbrella-team"}
                with pytest.raises(IntegrityError):
                    Team._base_manager.bulk_create([Team(id="umbrella-team", alias="x", organization_id="umbrella")])
                connection.needs_rollback = False
                connection.commit()
                assert teams() == {"umbrella-team"}
            finally:
                connection.rollback()
                connection.set_autocommit(True)

    def test_a_new_connection(self):
        with scope(organization="acme"):
            assert teams() == {"acme-team"}
            connection.close()
            assert teams() == {"acme-team"}
        connection.close()
        assert teams() == set()

    def test_each_thread_has_its_own_wall(self):
        seen: dict[str, set[str]] = {}

        def look(name: str) -> None:
            with scope(organization=name):
                seen[name] = teams()
            connection.close()

        threads = [Thread(target=look, args=(name,)) for name in ("acme", "umbrella")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert seen == {"acme": {"acme-team"}, "umbrella": {"umbrella-team"}}

    def test_an_iterator_over_a_server_side_cursor(self):
        with scope(organization="acme"):
            assert [team.pk for team in Team._base_manager.iterator()] == ["acme-team"]


# The policies


@pytest.fixture
def restored(transactional_db: None) -> Iterator[None]:
    """Puts the policies on again, which the other tests of this worker need."""
    yield
    put_on()


def test_every_table_with_an_organization_has_a_policy():
    status = read_status()
    assert status.missing == ()
    assert set(status.present) == {policy.table for policy in table_policies()}
    assert len(status.present) >= 17
    assert not status.is_role_exempt
    assert row_security_warnings() == []


@pytest.mark.usefixtures("restored", "world")
def test_the_policies_go_off_and_on_again():
    count = len(table_policies())
    assert put_on() == []
    assert len(take_off()) == count
    assert take_off() == []
    assert teams() >= {"research", "raccoon"}
    assert [warning.id for warning in check_row_security(None)] == ["tollgate.W001"]
    assert len(put_on()) == count
    assert teams() == set()
    assert check_row_security(None) == []


@pytest.mark.usefixtures("restored")
def test_a_policy_of_another_version_is_replaced():
    with connection.cursor() as cursor:
        cursor.execute("COMMENT ON POLICY tollgate_own ON tenants_team IS 'older'")
        cursor.execute("ALTER TABLE tenants_user NO FORCE ROW LEVEL SECURITY")
    assert set(read_status().missing) == {"tenants_team", "tenants_user"}
    assert set(put_on()) == {"tenants_team", "tenants_user"}
    assert read_status().missing == ()


@pytest.mark.usefixtures("restored")
def test_the_command():
    output = StringIO()
    call_command("row_security", "status", stdout=output)
    count = len(table_policies())
    assert output.getvalue() == f"on {count} of {count} tables\n"
    call_command("row_security", "off", stdout=output)
    call_command("row_security", "on", stdout=output)
    assert f"taken off {count} tables" in output.getvalue()
    assert f"put on {count} tables, {count} have it" in output.getvalue()
    with override_settings(TOLLGATE_ROW_SECURITY=False), pytest.raises(CommandError, match="TOLLGATE_ROW_SECURITY=1"):
        call_command("row_security", "on", stdout=output)


def test_a_process_without_the_setting_waits_and_says_so():
    """It would refuse every key as unknown."""
    check_row_security_of_start()
    with override_settings(TOLLGATE_ROW_SECURITY=False):
        with pytest.raises(DatabaseNotReady, match="TOLLGATE_ROW_SECURITY=1"):
            check_row_security_of_start()
        with pytest.raises(DatabaseNotReady, match="TOLLGATE_ROW_SECURITY=1"):
            check_schema()


def test_a_role_that_passes_every_policy_is_named(monkeypatch: pytest.MonkeyPatch):
    status = read_status()
    monkeypatch.setattr(checks, "read_status", lambda: replace(status, role="postgres", is_role_exempt=True))
    [warning] = row_security_warnings()
    assert "'postgres'" in warning
    assert "superuser" in warning
    assert [warning.id for warning in check_row_security(None)] == ["tollgate.W001"]
    with override_settings(TOLLGATE_ROW_SECURITY=False):
        assert check_row_security(None) == []


def test_a_migration_reaches_all_rows():
    """A migration has no scope; its models have no scoped managers."""
    with scopes_disabled():
        Team.objects.create(id="t", alias="t", organization_id=DEFAULT_ORGANIZATION)
    call_command("migrate", verbosity=0)
    assert read_status().missing == ()


def test_the_audit_log_stays_one_chain():
    """An entry in an organization's scope follows the newest of all, which that scope does not see."""
    for name in ("one", "two", "one"):
        with scopes_disabled():
            organization, _ = Organization.objects.get_or_create(id=name, defaults={"name": name})
        with scope(organization=name):
            team = Team(id=new_id(), alias=name, organization=organization)
            with audited("create", team):
                team.save()
    with scope(organization="two"):
        assert set(AuditEntry.objects.values_list("organization_id", flat=True)) == {"two"}
    assert find_broken_entry() is None
    with scopes_disabled():
        assert AuditEntry.objects.count() == 3
        AuditEntry.objects.filter(organization_id="two").update(actor="another")
    assert find_broken_entry() is not None
