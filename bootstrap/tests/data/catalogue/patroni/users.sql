{% for user in cluster.users %}
ALTER ROLE {{ user.name | sql_id }} PASSWORD {{ password(user.name) | sql_text }};
{% endfor %}
